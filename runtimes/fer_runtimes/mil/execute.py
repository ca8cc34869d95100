"""Executes a MIL program op by op, with the rounding that its declared types ask for.

Each op computes in float32 and its result is rounded to the dtype that the program declares: for
a float16 program that is one rounding after each op, as if every op accumulated in float32. What
Apple's engines fuse, or accumulate in float16, is theirs and is not imitated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.mil.ops import OPS
from fer_runtimes.mil.program import Op, Program, Tensor

FLOAT16_MAX = float(np.finfo(np.float16).max)
# What these take is a list of values even where the program gives one.
_LISTS = {"values"}
# Ends a classifier's program: picks the label of the largest probability. What it gives is no tensor.
CLASSIFY = "classify"


class Executor:
    """Runs a program on numpy. ``peaks`` keeps the largest magnitude that each tensor has reached, and by which op.

    overflow: lets a float16 tensor become infinite, where it is an error by default

    Raises BadInput at once, by name, for an op that is not known here.
    """

    def __init__(self, program: Program, overflow: bool = False) -> None:
        if unknown := sorted({op.kind for op in program.ops} - set(OPS) - {CLASSIFY}):
            raise BadInput(
                f"the reference executor does not know the MIL op {', '.join(unknown)}; it knows {', '.join(OPS)}"
            )
        self.program = program
        self.overflow = overflow
        self.peaks: dict[str, tuple[float, str]] = {}
        self.constants = {name: _widened(value) for name, value in program.constants.items()}
        self._ops = []
        for op in program.ops:  # what depends on constants alone is computed once
            if op.kind != CLASSIFY and all(name in self.constants for names in op.inputs.values() for name in names):
                self.constants |= self._run(op, self.constants)
            else:
                self._ops.append(op)

    def __call__(self, inputs: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
        """Values of all tensors, by name; float16 ones as float32 that float16 can hold.

        Raises CheckFailed where a float16 tensor would become infinite, naming it, unless that is let pass.
        """
        values: dict[str, Any] = {**self.constants, **inputs}
        for op in self._ops:
            if op.kind != CLASSIFY:
                values |= self._run(op, values)
        return values

    def _run(self, op: Op, values: dict[str, Any]) -> dict[str, Any]:
        arguments = {
            key: [values[name] for name in names] if key in _LISTS or len(names) > 1 else values[names[0]]
            for key, names in op.inputs.items()
        }
        with np.errstate(over="ignore"):
            try:
                results = OPS[op.kind](**arguments)
            except (TypeError, ValueError, KeyError, IndexError) as error:
                raise BadInput(
                    f"MIL op {op.kind} ({op.outputs[0].name}) cannot be run as it stands: {error}"
                ) from error
        results = results if isinstance(results, tuple) else (results,)
        return {
            tensor.name: self._rounded(op, tensor, np.asarray(result))
            for tensor, result in zip(op.outputs, results, strict=True)
        }

    def _rounded(self, op: Op, tensor: Tensor, result: NDArray[Any]) -> NDArray[Any]:
        if result.shape != tensor.shape:
            raise BadInput(
                f"MIL op {op.kind} gives {list(result.shape)} for {tensor.name}, declared {list(tensor.shape)}"
            )
        if tensor.dtype not in ("float16", "float32"):
            return result.astype(tensor.dtype)
        peak = float(np.abs(result).max(initial=0))
        if peak > self.peaks.get(tensor.name, (-1.0, ""))[0]:
            self.peaks[tensor.name] = (peak, op.kind)
        if tensor.dtype == "float32":
            return result.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):
            rounded = result.astype(np.float16).astype(np.float32)
        if not self.overflow and not np.isfinite(rounded).all() and np.isfinite(result).all():
            raise CheckFailed(
                f"tensor {tensor.name} ({op.kind}) reaches {peak:.3g}, which float16 cannot hold (at most {FLOAT16_MAX:g}); export with --precision fp32"
            )
        return rounded


def _widened(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.float16:
        value = value.astype(np.float32)
    return value if value.ndim else value.item()
