"""TensorRT-RTX through ONNX Runtime's plugin: a wheel that carries the whole library, and the same ONNX.

The plugin compiles the graph for the GPU when the session opens, in the graph's own precision.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.engines.trt_key import BuildSettings
from fer_runtimes.errors import NotAvailable
from fer_runtimes.files import cache_dir
from fer_runtimes.session import Options, Report, Session

# Batches that an ONNX bundle, which has no build settings, is compiled for.
_BATCH = BuildSettings("fp32").batch


class RtxSession(Session):
    """One ONNX Runtime session of which TensorRT-RTX has every node."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import onnxruntime
        import onnxruntime_ep_nv_tensorrt_rtx as plugin

        super().__init__(bundle, options)
        self._provider: str = plugin.get_ep_name()
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT takes 10 bits for float32's 23 unless CUDA forbids it
        if not any(device.ep_name == self._provider for device in onnxruntime.get_ep_devices()):
            try:  # once a process: onnxruntime keeps what was registered
                onnxruntime.register_execution_provider_library(self._provider, plugin.get_library_path())
            except Exception as error:  # onnxruntime's errors have no common base but Exception
                raise NotAvailable(
                    f"TensorRT-RTX cannot be loaded ({error}); it needs an NVIDIA GPU of Ampere or newer and a CUDA 13 driver"
                ) from error
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == self._provider]
        if not devices:
            raise NotAvailable("TensorRT-RTX finds no GPU here; it needs an NVIDIA GPU of Ampere or newer")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # every node, or an error
        settings.add_provider_for_devices(devices[:1], self._provider_options())
        try:
            self._session = onnxruntime.InferenceSession(str(bundle.file(".onnx")), settings)
        except Exception as error:
            raise NotAvailable(f"TensorRT-RTX cannot run {bundle.path} whole: {error}") from error
        if (first := self._session.get_providers()[0]) != self._provider:
            raise NotAvailable(f"onnxruntime was asked for {self._provider} and uses {first}")

    def _provider_options(self) -> dict[str, str]:
        """Profiles of the batches, and a folder of this user's own for compiled kernels, which are native code."""
        kernels = cache_dir() / "tensorrt-rtx"
        kernels.mkdir(parents=True, exist_ok=True)
        kernels.chmod(0o700)
        manifest = self.bundle.manifest
        _, likeliest, largest = BuildSettings.of(self.bundle).batch if manifest.build else _BATCH
        self._batch = (1, likeliest, largest)
        shapes = [f"{manifest.input['name']}:{images}x1x{manifest.size}x{manifest.size}" for images in self._batch]
        names = ("nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes")
        return dict(zip(names, shapes, strict=True)) | {"nv_runtime_cache_path": str(kernels)}

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        name, largest = self.bundle.manifest.input["name"], self._batch[2]
        parts = [images[i : i + largest] for i in range(0, len(images), largest)]
        return np.concatenate([self._session.run(["logits"], {name: part})[0] for part in parts])

    def report(self) -> Report:
        import onnxruntime
        import onnxruntime_ep_nv_tensorrt_rtx as plugin

        return Report(
            self.options.device,
            self._session.get_providers()[0],
            # types are the graph's own
            "fp32" if self.bundle.manifest.precision == "int8-weights" else self.bundle.manifest.precision,
            0,
            {"onnxruntime": onnxruntime.__version__, "onnxruntime-ep-nv-tensorrt-rtx": plugin.__version__},
        )
