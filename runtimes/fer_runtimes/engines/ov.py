"""OpenVINO. On CPUs with AMX it computes in bf16 unless asked not to; here it is asked, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.session import Options, Report, Session
from fer_runtimes.tracing import OUTPUT, Tensor, Tracer, kind_of

# A bundle's precision is how its weights are stored; on the CPU all but bf16 and int8 are computed in float32, and
# what an int8 graph leaves unquantised is too. Other devices compute fp16 in float16.
_COMPUTE = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8-weights": "f32", "int8": "f32"}
_COMPUTE_ELSEWHERE = _COMPUTE | {"fp16": "f16"}
_LOW = {"bf16": ("bf16",), "int8": ("i8", "u8")}  # what a layer's executed type is called
_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVinoSession(Session):
    """One compiled model and one inference request, tuned for latency."""

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import openvino
        from openvino import properties
        from openvino.properties import hint

        super().__init__(bundle, options)
        core = openvino.Core()
        device = options.device.upper()
        if device not in core.available_devices:
            raise NotAvailable(
                f"openvino has no device {options.device!r} here; it finds {', '.join(core.available_devices).lower()}"
            )
        wanted = (_COMPUTE if device == "CPU" else _COMPUTE_ELSEWHERE).get(bundle.manifest.precision)
        if wanted is None:
            raise NotAvailable(
                f"{bundle.path}: openvino here runs precisions {', '.join(_COMPUTE)}, not {bundle.manifest.precision}"
            )
        model = bundle.file(".xml" if bundle.manifest.target == "openvino" else ".onnx")
        settings = {
            hint.inference_precision: getattr(openvino.Type, wanted),
            hint.performance_mode: hint.PerformanceMode.LATENCY,
        }
        if device == "CPU":
            settings |= {properties.inference_num_threads: options.threads, properties.num_streams: 1}
        try:
            self._compiled = core.compile_model(str(model), device, settings)
        except RuntimeError as error:
            raise BadInput(
                f"{bundle.path}: openvino cannot compile the model ({error}); export the bundle again"
            ) from error
        obtained = self._compiled.get_property(hint.inference_precision).get_type_name()
        if obtained != wanted:
            able = ", ".join(core.get_property(device, properties.device.capabilities)).lower()
            raise NotAvailable(
                f"openvino was asked to compute in {wanted} and computes in {obtained} on {options.device}, which has {able}; use fp32"
            )
        devices = self._compiled.get_property(properties.execution_devices)
        if [name.split(".")[0] for name in devices] != [device.split(".")[0]]:
            raise NotAvailable(f"openvino was asked for {device} and uses {', '.join(devices)}")
        self._low, self._of = _layers_in(self._compiled, _LOW.get(bundle.manifest.precision, ()))
        if bundle.manifest.precision in _LOW and not self._low:
            raise NotAvailable(
                f"openvino was asked for {bundle.manifest.precision} and computes none of {self._of} convolutions and products in it on {options.device}"
            )
        self._request = self._compiled.create_infer_request()
        self._batch = 0

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images) != self._batch:
            self._bind(images.shape)
        self._images[...] = images
        self._request.infer()
        return self._logits.copy()  # type: ignore[no-any-return]

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Gives the request tensors of its own for this batch size.

        Handing it arrays at each call, and asking for the result, takes 70 us of Python around an inference of 300.
        """
        import openvino

        given = openvino.Tensor(openvino.Type.u8, shape)
        classes = self._compiled.output(0).get_partial_shape()[1].get_length()
        result = openvino.Tensor(openvino.Type.f32, [shape[0], classes])
        self._request.set_input_tensor(given)
        self._request.set_output_tensor(result)
        self._images, self._logits, self._batch = given.data, result.data, shape[0]

    def report(self) -> Report:
        import openvino
        from openvino import properties
        from openvino.properties import hint

        compute = self._compiled.get_property(hint.inference_precision).get_type_name()
        threads = (
            int(self._compiled.get_property(properties.inference_num_threads)) if self.options.device == "cpu" else 0
        )
        return Report(
            self.options.device,
            ", ".join(self._compiled.get_property(properties.execution_devices)),
            self.bundle.manifest.precision if self._low else _NAMES.get(compute, compute),
            threads,
            {"openvino": openvino.get_version()},
            (f"{self._low} of {self._of} convolutions and products run in {self.bundle.manifest.precision}",)
            if 0 < self._low < self._of
            else (),
        )


def _layers_in(compiled: Any, kinds: tuple[str, ...]) -> tuple[int, int]:
    """Convolutions and matrix products that a compiled model runs in these types, and all of them, as its executed graph tells."""
    heavy = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in _HEAVY:
            heavy.append(facts["runtimePrecision"].astype(str))
    return sum(kind in kinds for kind in heavy), len(heavy)


def trace(bundle: Bundle, threads: int) -> Tracer:
    """The model on the CPU in float32 with a result added to each operation: what is read is not fused into what follows."""
    import openvino
    from openvino import properties
    from openvino.properties import hint

    core = openvino.Core()
    try:
        model = core.read_model(str(bundle.file(".xml" if bundle.manifest.target == "openvino" else ".onnx")))
        computed: set[str] = {parameter.get_name() for parameter in model.get_parameters()}
        shown: list[tuple[int, tuple[str, ...], str]] = []
        for operation in model.get_ordered_ops():
            sources = {operation.input_value(i).get_node().get_name() for i in range(operation.get_input_size())}
            operands = len(computed & sources)
            # a shape is no value: what is reshaped by it alone is a constant still
            if not operands or operation.get_type_name() in ("Result", "ShapeOf"):
                continue
            computed.add(operation.get_name())
            port = operation.output(0)
            if (kind := kind_of(operation.get_type_name(), operands)) and port.get_element_type().is_real():
                names = dict.fromkeys((*sorted(port.get_names()), operation.get_friendly_name()))
                before = len(model.outputs)
                model.add_outputs(port)  # adds none for the logits, which are an output already
                shown.append((before if len(model.outputs) > before else 0, tuple(names), kind))
        settings = {
            hint.inference_precision: openvino.Type.f32,
            properties.inference_num_threads: threads,
            properties.num_streams: 1,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise BadInput(f"{bundle.path}: openvino cannot open the model with its tensors shown ({error})") from error
    shown.append((0, ("logits",), OUTPUT))

    def tensors(images: NDArray[np.uint8]) -> Iterator[Tensor]:
        request.infer([images], share_inputs=True)
        for index, names, kind in shown:
            yield Tensor(names, kind, np.array(request.get_output_tensor(index).data, np.float32))

    return tensors
