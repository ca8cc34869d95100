"""Energy of a query, where a sensor tells: RAPL's counters, or the power rails of a board, sampled.

Everything is read below ``root``, as ``fer_runtimes.board`` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fer_runtimes import board

HERTZ = 20
IDLE_S = 1.0
_WHOLE = ("VDD_IN", "POM_5V_IN")  # the rail that feeds all others of a Jetson, where it is measured


@dataclass(frozen=True)
class Span:
    """Some timed queries: from when to when on the clock that processes share (time.monotonic_ns), and RAPL's joules meanwhile."""

    began: int
    ended: int
    joules: float | None
    queries: int

    @property
    def seconds(self) -> float:
        return (self.ended - self.began) / 1e9


def counted(root: Path) -> float | None:
    """Joules of all processor packages since some start; None where RAPL is not there or not to be read."""
    packages = [value for name, value in (board.energy_j(root) or {}).items() if name.startswith("package")]
    return sum(packages) if packages else None


def used(before: float | None, after: float | None) -> float | None:
    """Joules between two readings; None where there are none, or where a counter has started again from 0."""
    return after - before if before is not None and after is not None and after >= before else None


class Meter:
    """Samples the rails in a thread while it is open, in the process that measures and sleeps, not in the measured one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._samples: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        rails = board.power_w(root) or {}
        whole = [name for name in _WHOLE if name in rails]
        self._rails = whole[:1] or list(rails)
        self._counts = counted(root) is not None
        self.source = "RAPL packages" if self._counts else " + ".join(self._rails) or None
        self.idle_w: float | None = None

    def __enter__(self) -> Meter:
        if self.source and not self._counts:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()

    def rest(self) -> None:
        """Measures for a second what the machine takes with nothing at work; at once over where no sensor is."""
        if not self.source:
            return
        before, began = counted(self._root), time.monotonic_ns()
        time.sleep(IDLE_S)
        ended, after = time.monotonic_ns(), counted(self._root)
        if joules := self._joules([Span(began, ended, used(before, after), 1)]):
            self.idle_w = joules[0] / (ended - began) * 1e9

    def summarise(self, spans: Sequence[Span]) -> dict[str, Any] | None:
        """A row's ``energy``, from the spans of its timed queries; None where no sensor told."""
        if not self.source or (found := self._joules(spans)) is None:
            return None
        joules, told = found
        queries, seconds = sum(span.queries for span in told), sum(span.seconds for span in told)
        above = None if self.idle_w is None else (joules - self.idle_w * seconds) / queries * 1e3
        return {
            "source": self.source,
            "mj_per_query": joules / queries * 1e3,
            "mj_per_query_above_idle": above,
            "idle_w": self.idle_w,
            "queries": queries,
        }

    def _joules(self, spans: Sequence[Span]) -> tuple[float, list[Span]] | None:
        """What the spans took, and which of them it is known of."""
        if self._counts:
            told = [span for span in spans if span.joules is not None]
            return (sum(span.joules or 0 for span in told), told) if told else None
        watts = [power for at, power in self._samples if any(span.began <= at <= span.ended for span in spans)]
        return (sum(watts) / len(watts) * sum(span.seconds for span in spans), list(spans)) if watts else None

    def _sample(self) -> None:
        while not self._over.wait(1 / HERTZ):
            rails = board.power_w(self._root) or {}
            if all(name in rails for name in self._rails):
                self._samples.append((time.monotonic_ns(), sum(rails[name] for name in self._rails)))
