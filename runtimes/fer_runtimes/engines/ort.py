"""ONNX Runtime. Asked for CUDA it may give the CPU with a warning; here that is an error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import cpu
from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.session import Options, Report, Session
from fer_runtimes.tracing import OUTPUT, Tensor, Tracer, kind_of

# CUDA computes float32 in TF32, with 10 bits of mantissa, unless told not to.
_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}
# Without VNNI an x86 CPU adds pairs of products in 16 bits, which overflow in silence: a shipped net's accuracy fell
# from 66 to 44 %. With this ONNX Runtime takes instructions that cannot. It does so on every x86 CPU, also on those
# that are exact anyhow and two to three times as fast without it.
EXACT_INT8 = ("session.x64quantprecision", "1")
_INT8 = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger")
_HEAVY = (*_INT8, "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


class OrtSession(Session):
    """One ONNX Runtime session on one execution provider."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import onnxruntime

        super().__init__(bundle, options)
        if options.device not in _PROVIDERS:
            raise NotAvailable(
                f"onnxruntime has no device {options.device!r} here; choose one of {', '.join(_PROVIDERS)}"
            )
        provider, provider_options = _PROVIDERS[options.device]
        if provider not in onnxruntime.get_available_providers():
            raise NotAvailable(
                f"this onnxruntime has no {provider}; pip install '.[onnx-gpu]' in fer-edge's checkout, or use --device cpu"
            )
        settings = _settings(options)
        if bundle.manifest.precision == "int8-weights":
            # Else the weights are dequantised at each inference, and convolutions lose their faster layout: kept
            # apart they could be fused with quantised activations, which such a bundle has none of.
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.file(".onnx")), settings, [(provider, provider_options)]
            )
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            if options.device != "cpu":
                raise NotAvailable(f"onnxruntime cannot run {bundle.path} on {provider} alone: {error}") from error
            raise BadInput(
                f"{bundle.path}: onnxruntime cannot open the model ({error}); export the bundle again"
            ) from error
        if (first := self._session.get_providers()[0]) != provider:
            raise NotAvailable(
                f"onnxruntime was asked for {provider} and uses {first}: the provider's libraries do not load; "
                "check the CUDA installation, or use --device cpu"
            )
        self._session.disable_fallback()
        self._input = self._session.get_inputs()[0].name

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._session.run(["logits"], {self._input: images})[0]  # type: ignore[no-any-return]

    def report(self) -> Report:
        import onnxruntime

        settings = self._session.get_session_options()
        on_cpu = self.options.device == "cpu"
        precision = self.bundle.manifest.precision
        quantised, of = self._int8_nodes() if precision == "int8" else (0, 0)
        if precision == "int8" and not quantised and self.bundle.manifest.target != "tensorrt":
            raise NotAvailable(
                f"onnxruntime was asked for int8 and computes none of {of} convolutions and products in it on {self.options.device}"
            )
        return Report(
            self.options.device,
            self._session.get_providers()[0],
            # The CPU provider casts float16 to float32 around each operator; only what passes between them is rounded.
            # So it is with TensorRT's int8, whose activations are signed.
            "fp32" if precision == "int8-weights" or (not quantised and (on_cpu or precision == "int8")) else precision,
            settings.intra_op_num_threads if on_cpu else 0,
            {"onnxruntime": onnxruntime.__version__},
            (f"{quantised} of {of} convolutions and products run in int8",) if quantised < of else (),
        )

    def _int8_nodes(self) -> tuple[int, int]:
        """Convolutions and matrix products that ran in int8, and all that ran: a second session profiles one image.

        The first is not profiled, since that would slow it down.
        """
        import onnxruntime

        with tempfile.TemporaryDirectory() as scratch:
            settings = _settings(self.options)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(scratch) / "profile")
            session = onnxruntime.InferenceSession(
                str(self.bundle.file(".onnx")), settings, [_PROVIDERS[self.options.device]]
            )
            size = self.bundle.manifest.size
            session.run(["logits"], {self._input: np.zeros((1, 1, size, size), np.uint8)})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = {
            event["args"]["node_index"]: event["args"]["op_name"]
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        }
        heavy = [kind for kind in ran.values() if kind in _HEAVY]
        return sum(kind in _INT8 for kind in heavy), len(heavy)


def compute_exactly(settings: Any) -> None:
    """Has a session (onnxruntime.SessionOptions) compute int8 without overflow, by the fastest way that this CPU has."""
    if not cpu.has_vnni():
        settings.add_session_config_entry(*EXACT_INT8)


def _settings(options: Options) -> Any:
    """SessionOptions for a device and a number of threads."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    compute_exactly(settings)
    if options.device != "cpu":  # no node may be left to the CPU without a word
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return settings


def trace(bundle: Bundle, threads: int) -> Tracer:
    """The graph as it was exported: every node computed by itself on the CPU, each result an output of its own."""
    import onnxruntime

    if find_spec("onnx") is None:
        raise NotAvailable(
            "showing the tensors of an ONNX graph needs onnx; pip install '.[export]' in fer-edge's checkout"
        )
    import onnx

    model = onnx.load(bundle.file(".onnx"))
    weights = {tensor.name for tensor in model.graph.initializer}
    computed = {model.graph.input[0].name}
    shown: list[tuple[str, tuple[str, ...], str]] = []
    for node in model.graph.node:
        if not (operands := len(computed.intersection(node.input))):  # of constants alone
            continue
        if node.op_type == "Shape":  # no value: what is reshaped by it alone is a constant still
            continue
        computed.update(node.output)
        if kind := kind_of(node.op_type, operands):
            modules = [
                name.removesuffix(".weight") for name in node.input if name in weights and name.endswith(".weight")
            ]
            shown.append((node.output[0], (*modules[:1], node.output[0]), kind))
    shown.append(("logits", ("logits",), OUTPUT))
    already = {output.name for output in model.graph.output}
    for name in dict.fromkeys(name for name, _, _ in shown):
        if name not in already:
            model.graph.output.add(name=name)  # onnxruntime infers its type
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise BadInput(f"{bundle.path}: onnxruntime cannot open the model with its tensors shown ({error})") from error

    def tensors(images: NDArray[np.uint8]) -> Iterator[Tensor]:
        arrays = session.run([name for name, _, _ in shown], {session.get_inputs()[0].name: images})
        for (_, names, kind), array in zip(shown, arrays, strict=True):
            if array.dtype.kind == "f":
                yield Tensor(names, kind, array.astype(np.float32))

    return tensors
