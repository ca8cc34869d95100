"""TensorRT. The engine comes from the cache or is built here, checked once, then runs from host image to host logits.

Buffers, stream and graphs go through ``cuda-bindings``; there is no torch. For each number of
images in a run the copies and the net are captured once as a CUDA graph and replayed.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle, read_reference
from fer_runtimes.cuda import checked
from fer_runtimes.engines.trt_build import build, check_io, errors_logger, key_of, load, stored_engine
from fer_runtimes.engines.trt_key import BuildSettings, EngineCache, StoredEngine
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.parity import Parity, Tolerance, check_session
from fer_runtimes.session import Options, Report, Session

if TYPE_CHECKING:
    import tensorrt


class TensorRtSession(Session):
    """One engine on one stream."""

    def __init__(self, bundle: Bundle, options: Options, plan: bytes | None = None) -> None:
        """Opens the engine ``plan``, or the one that belongs to the bundle: built and checked here if there is none yet."""
        super().__init__(bundle, options)
        self._settings = BuildSettings.of(bundle)
        self._runs: dict[int, _Run] = {}
        self._runtime: Any
        self._runtime, self._engine = load(plan or verified_engine(bundle).plan(), self._settings)
        check_io(self._engine, bundle)
        self._stream = checked(_cuda().cudaStreamCreateWithFlags(_cuda().cudaStreamNonBlocking))

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        largest = self._settings.batch[2]
        return np.concatenate([self._chunk(images[i : i + largest]) for i in range(0, len(images), largest)])

    def _chunk(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """At most the largest batch; one smaller than the smallest is filled up, and what was filled is dropped."""
        count = max(len(images), self._settings.batch[0])
        if count not in self._runs:
            self._runs[count] = _Run(self._engine, self.bundle, count, self._stream)
        run = self._runs[count]
        run.images[: len(images)] = images
        run()
        return run.logits[: len(images)].copy()

    def report(self) -> Report:
        import tensorrt

        graphs = bool(self._runs) and all(run.captured for run in self._runs.values())
        place = "GPU" if self._settings.dla_core is None else f"DLA core {self._settings.dla_core}"
        return Report(
            self.options.device,
            f"TensorRT on {place}, {'CUDA graph' if graphs else 'no CUDA graph'}",
            self._settings.precision,  # the engine was audited against it before it was kept
            0,
            {"tensorrt": tensorrt.__version__},
        )

    def close(self) -> None:
        if "_stream" in self.__dict__:
            for run in self._runs.values():
                run.close()
            checked(_cuda().cudaStreamDestroy(self._stream))
            del self._runs, self._engine  # before the runtime that made it
        super().close()


class _Run:
    """Buffers, an execution context and a CUDA graph for one number of images.

    A context of its own: a graph captured from a context is void once the context's shapes change.
    """

    def __init__(self, engine: tensorrt.ICudaEngine, bundle: Bundle, count: int, stream: Any) -> None:
        cuda, side = _cuda(), bundle.manifest.size
        names = bundle.manifest.input["name"], (bundle.manifest.output or {})["name"]
        shape, answer = (count, 1, side, side), (count, len(LABELS))
        self._sizes = int(np.prod(shape)), 4 * int(np.prod(answer))
        self._stream, self._exec = stream, None
        self._device: list[int] = []
        self._host: list[int] = []
        for size in self._sizes:
            self._device.append(int(checked(cuda.cudaMalloc(size))))
            self._host.append(int(checked(cuda.cudaMallocHost(size))))
        self.images: NDArray[np.uint8] = _view(self._host[0], self._sizes[0]).reshape(shape)
        self.logits: NDArray[np.float32] = _view(self._host[1], self._sizes[1]).view(np.float32).reshape(answer)
        self.images[:] = 0
        self._logger = errors_logger()
        self._context = engine.create_execution_context()
        if self._context is None or not self._context.set_input_shape(names[0], shape):
            raise BadInput(f"{bundle.path}: its engine does not take {count} images at once; see its build settings")
        for name, address in zip(names, self._device, strict=True):
            self._context.set_tensor_address(name, address)
        self._enqueue()  # once before capture: what TensorRT does at a shape's first run must not be part of the graph
        checked(cuda.cudaStreamSynchronize(stream))
        self._capture()

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph is replayed; some engines (with a DLA) cannot be captured and are enqueued each time."""
        return self._exec is not None

    def __call__(self) -> None:
        cuda = _cuda()
        if self._exec is None:
            self._enqueue()
        else:
            checked(cuda.cudaGraphLaunch(self._exec, self._stream))
        checked(cuda.cudaStreamSynchronize(self._stream))

    def _enqueue(self) -> None:
        cuda = _cuda()
        to_device, to_host = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(cuda.cudaMemcpyAsync(self._device[0], self._host[0], self._sizes[0], to_device, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise NotAvailable(
                "TensorRT cannot run the engine; build it again with fer-export --target tensorrt --finish BUNDLE"
            )
        checked(cuda.cudaMemcpyAsync(self._host[1], self._device[1], self._sizes[1], to_host, self._stream))

    def _capture(self) -> None:
        cuda = _cuda()
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            self._enqueue()
        except NotAvailable:
            cuda.cudaStreamEndCapture(self._stream)  # fails too, and leaves the stream usable
            return
        error, graph = cuda.cudaStreamEndCapture(self._stream)
        if not error.value:
            self._exec = checked(cuda.cudaGraphInstantiate(graph, 0))
            checked(cuda.cudaGraphDestroy(graph))

    def close(self) -> None:
        cuda = _cuda()
        if self._exec is not None:
            checked(cuda.cudaGraphExecDestroy(self._exec))
        del self._context
        for address in self._device:
            checked(cuda.cudaFree(address))
        for address in self._host:
            checked(cuda.cudaFreeHost(address))


def verified_engine(bundle: Bundle) -> StoredEngine:
    """An engine that was checked on this machine: kept from before, or built, audited and compared now.

    Raises CheckFailed, and keeps nothing, if the engine built is another than asked or gives other answers.
    """
    key = key_of(bundle)
    cache = EngineCache(bundle.manifest.name)
    stored = stored_engine(bundle, key)
    if stored is not None:
        return stored
    plan, layers = build(bundle, cache.timings)
    return cache.store(key, plan, layers.to_dict(), parity_of(bundle, plan).to_dict())


def parity_of(bundle: Bundle, plan: bytes) -> Parity:
    """Compares an engine with the bundle's reference, under the bound that the bundle was exported under.

    Raises CheckFailed if it breaks the bound, BadInput if the bundle records none.
    """
    bound = (bundle.manifest.parity or {}).get("tolerance")
    if bound is None:
        raise BadInput(f"{bundle.path}: records no tolerance to check an engine by; export it again")
    manifest = bundle.manifest
    with TensorRtSession(bundle, Options("cuda"), plan) as session:
        return check_session(
            session, read_reference(bundle), Tolerance(**bound), f"{manifest.target} {manifest.precision}"
        )


def _view(address: int, size: int) -> NDArray[np.uint8]:
    """Pinned host memory as an array of bytes; it is not the array's to free."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _cuda() -> Any:
    from cuda.bindings import runtime

    return runtime
