"""Versions of what made a bundle or a figure."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    *("fer-edge", "torch", "timm", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "coremltools", "numpy"),
    *("onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx-cu13", "tensorrt", "polygraphy", "cuda-bindings"),
)


def installed_versions() -> dict[str, str]:
    """Versions of this project and of the packages that decide its results, those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
