"""NVIDIA's driver and CUDA runtime, as far as an engine needs them: is there a GPU, which one, what went wrong.

The driver is asked through its own library, so that runtimes that bring their own CUDA need no
Python package for it. What works on buffers uses ``cuda-bindings``: light, and no torch.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_runtimes.errors import NotAvailable

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The GPU that CUDA calls 0. compute_capability: ``8.7``; cuda_runtime, cuda_driver: ``12.6``; driver: ``540.4.0`` or None."""

    name: str
    compute_capability: str
    cuda_runtime: str
    cuda_driver: str
    driver: str | None


def why_no_gpu() -> str | None:
    """One line that says why no NVIDIA GPU can be used here, or None. Asks the driver; needs no CUDA package."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver ({_DRIVER} cannot be loaded)"
    count = ctypes.c_int(0)
    if (error := driver.cuInit(0)) or (error := driver.cuDeviceGetCount(ctypes.byref(count))):
        return f"the NVIDIA driver cannot start (CUDA error {error})"
    return None if count.value else "the NVIDIA driver finds no GPU"


def why_no_cuda() -> str | None:
    """The same for an engine that keeps its own buffers: the driver must also be new enough for ``cuda-bindings``."""
    if reason := why_no_gpu():
        return reason
    from cuda.bindings import runtime

    error, _ = runtime.cudaGetDeviceCount()
    if not error.value:
        return None
    if error == runtime.cudaError_t.cudaErrorInsufficientDriver:
        made_for, has = _version(runtime.cudaRuntimeGetVersion()[1]), _version(runtime.cudaDriverGetVersion()[1])
        return (
            f"the NVIDIA driver is of CUDA {has}, cuda-bindings is made for CUDA {made_for}; "
            f"pip install 'cuda-bindings<{int(has.split('.')[0]) + 1}'"
        )
    return f"CUDA finds no GPU ({error.name})"


def checked(result: tuple[Any, ...]) -> Any:
    """The value (or tuple of values, or None) of a ``cuda.bindings.runtime`` call. Raises NotAvailable if it failed."""
    from cuda.bindings import runtime

    error, *values = result
    if error.value:
        text = runtime.cudaGetErrorString(error)[1].decode()
        raise NotAvailable(f"CUDA: {text} ({error.name}); free memory on the GPU or ask for a smaller batch")
    return values[0] if len(values) == 1 else tuple(values) or None


def gpu() -> Gpu:
    """The GPU in use. Raises NotAvailable if there is none."""
    from cuda.bindings import runtime

    if reason := why_no_cuda():
        raise NotAvailable(reason)
    facts = checked(runtime.cudaGetDeviceProperties(0))
    return Gpu(
        facts.name.decode(),
        f"{facts.major}.{facts.minor}",
        _version(checked(runtime.cudaRuntimeGetVersion())),
        _version(checked(runtime.cudaDriverGetVersion())),
        kernel_module_version(),
    )


def kernel_module_version(file: Path = _KERNEL_MODULE) -> str | None:
    """Version of NVIDIA's kernel module, e.g. ``540.4.0``, or None where the system does not tell it."""
    try:
        found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", file.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found.group(1) if found else None


def _version(number: int) -> str:
    """12060 to ``12.6``."""
    return f"{number // 1000}.{number % 1000 // 10}"
