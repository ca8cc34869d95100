"""What an engine computes on the way to the logits: its intermediate tensors, in the order in which it computes them.

An engine that can show them names a function in the column ``tracer`` of ``ENGINES``: it takes
(bundle, threads), opens the model for this alone, and returns a ``Tracer``. A traced model is
slower than a session's and is fused less; its numbers are what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.session import named, runtimes_for, why_not


class Tensor(NamedTuple):
    """One intermediate tensor.

    names: what the model calls it, and the module whose weights made it, where that is known
    kind: what ``kind_of`` says, or ``OUTPUT``
    array: float32 ``[N, ...]``, NCHW where it is a picture; the caller owns it
    """

    names: tuple[str, ...]
    kind: str
    array: NDArray[np.float32]


Tracer = Callable[[NDArray[np.uint8]], Iterator[Tensor]]

OUTPUT = "output"  # the logits, always the last
# The same operation under the names of PyTorch (aten), ONNX, OpenVINO and Core ML (MIL), as ``kind_of`` spells them.
KINDS = {
    "convolution": ("conv", "convolution", "groupconvolution", "convtranspose", "convolutionbackpropdata"),
    "product": ("gemm", "matmul", "linear", "addmm", "mm", "bmm", "baddbmm"),
    "shift": ("add", "sub", "subtract"),
    "scale": ("mul", "multiply", "div", "divide", "realdiv"),
    "batch norm": ("batchnorm", "batchnormalization", "nativebatchnorm", "nativebatchnormlegitnotraining"),
    "layer norm": ("layernorm", "layernormalization", "nativelayernorm"),
    "relu": ("relu",),
    "clip": ("clip", "clamp", "hardtanh", "relu6"),
    "sigmoid": ("sigmoid",),
    "hard sigmoid": ("hardsigmoid", "hsigmoid", "sigmoidhard"),
    "hard swish": ("hardswish", "hswish"),
    "swish": ("silu", "swish"),
    "gelu": ("gelu",),
    "softmax": ("softmax",),
    "mean": ("mean", "reducemean", "globalaveragepool", "adaptiveavgpool2d"),
    "average pool": ("avgpool", "averagepool", "avgpool2d"),
    "max pool": ("maxpool", "maxpool2dwithindices"),
}
# What these are where both operands are computed, and none is a constant of the model.
_OF_TWO = {"shift": "sum", "scale": "gate"}
# What only moves, copies or recasts values: the tensors behind it show the same error.
_MOVES = {
    *("alias", "cast", "chunk", "clone", "copy", "convert", "detach", "dequantizelinear", "dropout", "expand"),
    *("expanddims", "flatten", "fakequantize", "gather", "identity", "permute", "quantizelinear", "reshape", "select"),
    *("shape", "shapeof", "slice", "split", "squeeze", "stridedslice", "t", "tocopy", "transpose", "unsafeview"),
    *("unsqueeze", "variadicsplit", "view"),
}
_KIND = {spelling: kind for kind, spellings in KINDS.items() for spelling in spellings}


def kind_of(operation: str, operands: int = 1) -> str | None:
    """The kind of an operation by an engine's name of it, itself if it is not known here; None for one that only moves values.

    operands: how many of what it is given were computed from the images
    """
    spelling = operation.lower().replace("_", "")
    kind = _KIND.get(spelling, spelling)
    return None if spelling in _MOVES else _OF_TWO.get(kind, kind) if operands > 1 else kind


def tracing_runtime(target: str) -> str:
    """The runtime that shows the tensors of a target's bundles here. Raises NotAvailable, with the reason, if there is none."""
    rows = [name for name in runtimes_for(target) if ENGINES[name].tracer]
    own = sorted(rows, key=lambda name: ENGINES[name].targets[0] != target)
    reasons = {name: why_not(name) for name in own}
    for name, reason in reasons.items():
        if not reason:
            return name
    raise NotAvailable("; ".join(filter(None, reasons.values())) or f"no runtime shows the tensors of target {target}")


def open_tracer(bundle: Bundle, runtime: str, threads: int) -> Tracer:
    """Opens a bundle so that it shows its tensors.

    Raises NotAvailable where the runtime is not here or shows none, BadInput where it does not run the bundle's target.
    """
    if reason := why_not(runtime):
        raise NotAvailable(reason)
    if not ENGINES[runtime].tracer:
        able = ", ".join(name for name, row in ENGINES.items() if row.tracer)
        raise NotAvailable(f"runtime {runtime} does not show its intermediate tensors; those that do are {able}")
    target = bundle.manifest.target
    if target not in ENGINES[runtime].targets:
        raise BadInput(f"runtime {runtime} runs {', '.join(ENGINES[runtime].targets)}, {bundle.path} is {target}")
    tracer: Tracer = named(ENGINES[runtime].tracer)(bundle, threads)
    return tracer
