"""A saved Core ML package, executed op by op on numpy: its answers, anywhere, without a Mac.

This is not Core ML and says nothing of its speed. It reads the package from disk, the MIL program
and the weights, and computes what they declare: an altered constant, a swapped label or a tensor
that leaves float16's range shows here as it would on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.metrics import softmax
from fer_runtimes.mil.execute import CLASSIFY, FLOAT16_MAX, Executor
from fer_runtimes.mil.program import Program, read_program
from fer_runtimes.session import Options, Report, Session
from fer_runtimes.tracing import OUTPUT, Tensor, Tracer, kind_of


class CoreMLReferenceSession(Session):
    """One image at a time, since the program is fixed to one."""

    batches = False

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        if options.device != "cpu":
            raise NotAvailable(
                f"coreml-reference has no device {options.device!r}, it computes on numpy; use --device cpu"
            )
        program = read_program(bundle.path / "model.mlpackage")
        self._run = Executor(program)
        self._input = _image_input(bundle, program)
        self._probabilities = _classifier(bundle, program)
        if "logits" not in program.outputs:
            raise BadInput(f"{bundle.path}: its program has no output 'logits'; export it with fer-export")
        self._temperature = bundle.manifest.temperature
        computed = {tensor.dtype for op in program.ops for tensor in op.outputs}
        self._half, self._int8 = "float16" in computed, bool({"int8", "uint8"} & computed)

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = np.empty((len(images), len(LABELS)), np.float32)
        for i, image in enumerate(images):
            values = self._run({self._input: image[np.newaxis].astype(np.float32)})
            logits[i] = values["logits"]
            probabilities = values[self._probabilities].ravel()
            if probabilities[logits[i].argmax()] < probabilities.max():
                raise CheckFailed(
                    f"{self.bundle.path}: the class that the package names and its largest logit differ; export it again"
                )
            scaled = logits[i : i + 1] / self._temperature
            # the quotient is rounded, and so is its divisor, each by half a step: at most that much in any probability
            step = np.finfo(np.float16 if self._half else np.float32).eps * (1 + np.abs(scaled).max())
            if (off := float(np.abs(probabilities - softmax(scaled)).max())) > step:
                raise CheckFailed(
                    f"{self.bundle.path}: the package's probabilities are not softmax(logits / {self._temperature:.4g}), by {off:.1e}; export it again"
                )
        return logits

    def report(self) -> Report:
        """``notes`` names every tensor that has left float16's range so far."""
        from importlib.metadata import version

        notes = tuple(
            f"tensor {name} ({kind}) reaches {peak:.3g}, beyond float16's {FLOAT16_MAX:g}: fp16 would not do"
            for name, (peak, kind) in self._run.peaks.items()
            if peak > FLOAT16_MAX
        )
        compute = "int8" if self._int8 else "fp16" if self._half else "fp32"
        versions = {name: version(name) for name in ("coremltools", "numpy")}
        return Report("cpu", "MIL on numpy, op by op", compute, 1, versions, notes)


def _image_input(bundle: Bundle, program: Program) -> str:
    size = bundle.manifest.size
    if [tensor.shape for tensor in program.inputs] != [(1, 1, size, size)]:
        raise BadInput(
            f"{bundle.path}: its program takes {[list(t.shape) for t in program.inputs]}, expected one grey image {size}x{size}"
        )
    return program.inputs[0].name


def _classifier(bundle: Bundle, program: Program) -> str:
    """The tensor from which the program picks its label. Raises BadInput unless the labels are ours, in our order."""
    classify = [op for op in program.ops if op.kind == CLASSIFY]
    if len(classify) != 1:
        raise BadInput(f"{bundle.path}: its program is no classifier; export it with fer-export")
    classes = program.constants.get(classify[0].inputs["classes"][0])
    if classes != list(LABELS):
        raise BadInput(f"{bundle.path}: its program names the classes {classes}, expected {', '.join(LABELS)}")
    return classify[0].inputs["probabilities"][0]


def trace(bundle: Bundle, threads: int) -> Tracer:
    """Every op of the program; numpy computes in one thread or as its library will. A float16 overflow stays to be seen."""
    program = read_program(bundle.path / "model.mlpackage")
    run = Executor(program, overflow=True)
    image = _image_input(bundle, program)
    shown: list[tuple[str, str]] = []
    for op in program.ops:
        operands = sum(name not in run.constants for names in op.inputs.values() for name in names)
        if operands and op.kind != CLASSIFY and (kind := kind_of(op.kind, operands)):
            shown.append((op.outputs[0].name, kind))
    shown.append(("logits", OUTPUT))

    def tensors(images: NDArray[np.uint8]) -> Iterator[Tensor]:
        with np.errstate(invalid="ignore"):
            each = [run({image: one[np.newaxis].astype(np.float32)}) for one in images]
        for name, kind in shown:
            yield Tensor((name,), kind, np.concatenate([values[name] for values in each], dtype=np.float32))

    return tensors
