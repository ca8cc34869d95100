"""Building a TensorRT engine from a bundle, on the device that is to run it. TensorRT 10.3 to 11; no torch.

The network is strongly typed in every version: precision is what the ONNX graph says, tensor by
tensor, and no builder flag for a precision is ever set (11 removed them). Polygraphy does the work;
where this goes around it, the comment says what forces that.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_runtimes.board import jetpack_version
from fer_runtimes.bundle import Bundle
from fer_runtimes.cuda import gpu
from fer_runtimes.engines.trt_audit import Audit, audit, onnx_nodes
from fer_runtimes.engines.trt_key import TIMING_CACHE, BuildSettings, EngineCache, EngineKey, StoredEngine, read_record
from fer_runtimes.engines.trt_key import differences as key_differences
from fer_runtimes.errors import BadInput, CheckFailed, FerError, NotAvailable
from fer_runtimes.signing import trusted_signer

if TYPE_CHECKING:
    import tensorrt

OLDEST = (10, 3)  # JetPack 6; strongly typed networks with what the exporter writes
EMBEDDED = "model.engine"
log = logging.getLogger(__name__)


def key_of(bundle: Bundle) -> EngineKey:
    """What an engine of this bundle depends on, on this machine. Raises NotAvailable without a GPU, BadInput for unfit settings."""
    import tensorrt

    settings, device = BuildSettings.of(bundle), gpu()
    check_version(tensorrt.__version__)
    asked = {name: value for name, value in asdict(settings).items() if name != "preset"}
    return EngineKey(
        onnx_sha256=bundle.manifest.files[bundle.file(".onnx").name]["sha256"],
        tensorrt=tensorrt.__version__,
        cuda_runtime=device.cuda_runtime,
        cuda_driver=device.cuda_driver,
        driver=device.driver,
        jetpack=jetpack_version(),
        gpu=device.name,
        compute_capability=device.compute_capability,
        timing_cache_sha256=bundle.manifest.files.get(TIMING_CACHE, {}).get("sha256"),
        **asked,
    )


def check_version(version: str) -> None:
    """Raises NotAvailable for a TensorRT too old to build strongly typed networks as the exporter writes them."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST:
        raise NotAvailable(
            f"TensorRT {version} is too old, {OLDEST[0]}.{OLDEST[1]} (JetPack 6) or newer is needed; "
            "on this machine use --target onnx with ONNX Runtime"
        )


def stored_engine(bundle: Bundle, key: EngineKey) -> StoredEngine | None:
    """An engine that may be loaded under ``key``: from the cache, or a signed bundle's own. Says why where there is none."""
    cache = EngineCache(bundle.manifest.name)
    if found := cache.find(key):
        try:
            found.plan()
            return found
        except BadInput as error:
            log.warning("%s; it is not loaded, engine is rebuilt", error)
            cache.forget(key)
            return None
    if found := _embedded(bundle, key):
        return found
    log.warning("%s", cache.why_missing(key))
    return None


def _embedded(bundle: Bundle, key: EngineKey) -> StoredEngine | None:
    """The engine inside a bundle, if the bundle's manifest is signed by a trusted key and the engine fits here."""
    record_name = f"{EMBEDDED}.json"
    if EMBEDDED not in bundle.manifest.files or record_name not in bundle.manifest.files:
        return None
    if trusted_signer(bundle.path) is None:
        log.warning("%s: is not signed, so its %s, native code, is not loaded", bundle.path, EMBEDDED)
        return None
    record = read_record(bundle.path / record_name)
    if record is None:
        raise BadInput(f"{bundle.path / record_name}: is not an engine's record; export the bundle again")
    if differing := key_differences(record["key"], key):
        log.warning("%s of the bundle does not fit here: %s", EMBEDDED, ", ".join(differing))
        return None
    return StoredEngine(bundle.path / EMBEDDED, record)


def build(bundle: Bundle, timings: Path) -> tuple[bytes, Audit]:
    """Builds an engine once and reads its layers back. timings: where the builder's timing cache is added to.

    Returns its bytes and what they are. Raises NotAvailable if TensorRT cannot build it, with
    TensorRT's own first error in the line, and CheckFailed if it built another engine than asked.
    """
    try:
        from polygraphy.backend import trt as polygraphy_trt
        from polygraphy.backend.trt import util as polygraphy_util
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise NotAvailable(
            f"building an engine needs polygraphy ({error}); pip install '.[tensorrt]' in fer-edge's checkout"
        ) from error
    settings, logger = BuildSettings.of(bundle), errors_logger()
    # Polygraphy keeps one logger for TensorRT and prints what it hears; ours takes its place so that
    # TensorRT's error can stand in our one line, and Polygraphy's own words stay off the screen.
    polygraphy_util.TRT_LOGGER = logger
    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
    model = bundle.file(".onnx").read_bytes()
    try:
        builder, network, _ = polygraphy_trt.network_from_onnx_bytes(model, strongly_typed=True)
        config = partial(_config, bundle, settings)
        # Timings are written here and read only from the bundle, whose digest is in the key: the same key, the same start.
        plan = bytes(
            polygraphy_trt.engine_bytes_from_network((builder, network), config=config, save_timing_cache=str(timings))
        )
        nodes = _heavy_nodes(network)
    except FerError:
        raise
    except PolygraphyException as error:
        raise NotAvailable(f"TensorRT cannot build {bundle.path.name}: {logger.first() or error}") from error
    return plan, audit(inspect(plan, settings), settings.precision, nodes)


def _config(
    bundle: Bundle, settings: BuildSettings, builder: tensorrt.Builder, network: tensorrt.INetworkDefinition
) -> tensorrt.IBuilderConfig:
    import tensorrt
    from polygraphy.backend.trt import Profile, create_config

    side = bundle.manifest.size
    profile = Profile()
    profile.add(bundle.manifest.input["name"], *((images, 1, side, side) for images in settings.batch))
    config = create_config(
        builder,
        network,
        profiles=[profile],
        tf32=False,  # on by default in 10 and 11: float32 would be multiplied with 10 bits of mantissa
        profiling_verbosity=tensorrt.ProfilingVerbosity.DETAILED,  # the audit reads the layers' types
        memory_pool_limits={tensorrt.MemoryPoolType.WORKSPACE: settings.workspace_mib << 20},
        version_compatible=settings.version_compatible,
        hardware_compatibility_level=_hardware_level() if settings.hardware_compatible else None,
        load_timing_cache=str(bundle.path / TIMING_CACHE) if TIMING_CACHE in bundle.manifest.files else None,
    )
    if settings.dla_core is not None:
        if settings.dla_core >= builder.num_DLA_cores:
            raise NotAvailable(
                f"DLA core {settings.dla_core} was asked for and TensorRT {tensorrt.__version__} finds {builder.num_DLA_cores} here; "
                "export without --dla-core"
            )
        # Not Polygraphy's use_dla: in 10 it also sets precision constraints, which a strongly typed
        # network refuses, and it knows core 0 alone.
        config.default_device_type = tensorrt.DeviceType.DLA
        config.DLA_core = settings.dla_core
        if settings.gpu_fallback:
            config.set_flag(tensorrt.BuilderFlag.GPU_FALLBACK)
    return config


def _hardware_level() -> Any:
    """Engines for GPUs of other architectures; TensorRT has it from Ampere on, and not for Jetson."""
    import tensorrt

    return tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS


def _heavy_nodes(network: tensorrt.INetworkDefinition) -> list[str]:
    """Names of the ONNX nodes that became convolutions and matrix products, as the parser notes them on its layers."""
    import tensorrt

    kinds = (tensorrt.LayerType.CONVOLUTION, tensorrt.LayerType.DECONVOLUTION, tensorrt.LayerType.MATRIX_MULTIPLY)
    return [node for layer in network if layer.type in kinds for node in onnx_nodes(layer.metadata, layer.name)]


def inspect(plan: bytes, settings: BuildSettings) -> str:
    """The inspector's JSON over a whole engine. Raises NotAvailable if the engine cannot be loaded."""
    import tensorrt

    _, engine = load(plan, settings)
    context = engine.create_execution_context()
    name = next(
        name
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
        if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
    )
    # Without a shape the inspector answers "N/A due to dynamic shapes" where the types should stand.
    context.set_input_shape(name, (settings.batch[1], *tuple(engine.get_tensor_shape(name))[1:]))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def load(plan: bytes, settings: BuildSettings) -> tuple[tensorrt.Runtime, tensorrt.ICudaEngine]:
    """Loads an engine that is trusted already. The runtime must outlive the engine.

    Raises NotAvailable if TensorRT refuses it.
    """
    import tensorrt

    logger = errors_logger()
    runtime = tensorrt.Runtime(logger)
    # Not Polygraphy's engine_from_bytes: it lets every engine bring host code, which only version-compatible ones need.
    runtime.engine_host_code_allowed = settings.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise NotAvailable(
            f"TensorRT {tensorrt.__version__} cannot load the engine: {logger.first() or 'it gives no reason'}; "
            "build it here with fer-export --target tensorrt --finish BUNDLE"
        )
    return runtime, engine


def errors_logger() -> Any:
    """A TensorRT logger that prints nothing and keeps errors: ``first()`` is the first of them, in one line, or None."""
    import tensorrt

    class Errors(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.Severity.INTERNAL_ERROR, tensorrt.ILogger.Severity.ERROR):
                self.messages.append(" ".join(message.split()))

        def first(self) -> str | None:
            return self.messages[0] if self.messages else None

    return Errors()


def check_io(engine: tensorrt.ICudaEngine, bundle: Bundle) -> None:
    """Raises CheckFailed unless the engine takes the bundle's uint8 images and gives its float32 logits."""
    import tensorrt

    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    images, logits = bundle.manifest.input["name"], (bundle.manifest.output or {})["name"]
    if found != {images, logits}:
        raise CheckFailed(
            f"the engine's inputs and outputs are {', '.join(sorted(found))}, expected {images} and {logits}"
        )
    types = engine.get_tensor_dtype(images), engine.get_tensor_dtype(logits)
    if types != (tensorrt.uint8, tensorrt.float32):
        raise CheckFailed(f"the engine takes {types[0]} and gives {types[1]}, expected uint8 and float32")
