"""Latency as ratios within one run, joined to a row only where it was measured on the very same file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fer_bench.gate.baseline import Key
from fer_runtimes.errors import BadInput

# What the others' latency is divided by: the first that was measured. ONNX Runtime's varies least.
_REFERENCES = ("onnxruntime", "pytorch")


@dataclass(frozen=True)
class Latencies:
    """p50_ms and devices ("cpu x2"), by row."""

    p50_ms: dict[Key, float]
    devices: dict[Key, str]

    def reference(self) -> Key | None:
        """The row that the others are divided by, None if nothing was measured."""
        order = {runtime: place for place, runtime in enumerate(_REFERENCES)}
        return min(
            self.p50_ms, key=lambda key: (order.get(key.runtime, len(order)), not key.folded, str(key)), default=None
        )

    def named(self, name: str | None) -> Key | None:
        """The measured row whose name is ``name``, or None."""
        return next((key for key in self.p50_ms if str(key) == name), None)

    def ratio(self, key: Key, reference: Key) -> float:
        """p50 of a row over that of another."""
        return self.p50_ms[key] / self.p50_ms[reference]


def latencies_of(results: dict[str, Any], digests: Mapping[Key, str], source: str) -> Latencies:
    """Takes latencies from the content of a result file (``fer-bench --json``).

    digests: of the bundle whose answers each row gave. Raises BadInput, calling the file ``source``, where the same
    row was measured on another file, or on several machines: such figures do not belong in one row.
    """
    if results.get("machines"):
        raise BadInput(f"{source}: a merged file of several machines; give the file of this one")
    p50_ms: dict[Key, float] = {}
    devices: dict[Key, str] = {}
    for row in results["results"]:
        try:
            key = Key(row["runtime"], row["target"], row["precision"], row["folded"])
            if key not in digests or not row["latency_ms"]:
                continue
            if row["bundle_sha256"] != digests[key]:
                raise BadInput(
                    f"{source}: latency of {key} was measured on a bundle of digest {row['bundle_sha256'][:12]}, "
                    f"its answers come from {digests[key][:12]}; measure and gate the same bundle"
                )
            p50_ms[key] = float(row["latency_ms"]["p50"])
            devices[key] = f"{row['device']} x{row['threads']}"
        except (KeyError, TypeError) as error:
            raise BadInput(
                f"{source}: a damaged result file ({type(error).__name__}: {error}); measure again"
            ) from error
    return Latencies(p50_ms, devices)
