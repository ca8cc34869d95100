"""What is measured after the rounds where it is asked for: batches, camera-paced frames, a soak, LoadGen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_bench import loadgen, paced, soak, throughput

if TYPE_CHECKING:
    from fer_bench.measure import Apart
    from fer_bench.worker import Round

KEYS = ("throughput", "paced", "after_idle_ms", "soak", "loadgen")  # of a result, null where it was not asked for


@dataclass(frozen=True)
class Modes:
    """batches: images given at once; fps: frames a second that arrive, for ``paced_seconds`` each; soak_minutes: 0 for none;
    loadgen: MLCommons' LoadGen drives each runtime too; pin: bind each process to as many cores as it has threads
    """

    batches: tuple[int, ...] = ()
    fps: tuple[float, ...] = ()
    paced_seconds: float = 10.0
    soak_minutes: float = 0.0
    loadgen: bool = False
    pin: bool = True


def run(
    modes: Modes,
    timed: Sequence[Apart],
    rounds: int,
    queries: int,
    seconds: float,
    say: Callable[[str], None],
    sensors: Path,
) -> dict[Apart, dict[str, Any]]:
    """Values of ``KEYS`` for each worker; the batches in turns, the others one runtime after another while the rest sleep."""
    found: dict[Apart, dict[str, Any]] = defaultdict(dict)
    for apart, of_batch in _batches(modes.batches, timed, rounds, seconds, say).items():
        found[apart]["throughput"] = [throughput.summarise(batch, done) for batch, done in of_batch.items()]
    for apart in timed:
        who = f"{apart.task.runtime} on {apart.task.bundle.name}"
        for fps in modes.fps:
            say(f"{who}: {fps:g} frames a second")
            if frames := apart.ask("pace", fps, modes.paced_seconds):
                found[apart].setdefault("paced", []).append(paced.summarise(frames))
        if modes.fps and (taken := apart.ask("after_idle")) is not None:
            found[apart]["after_idle_ms"] = paced.summarise_idle(taken)
        if modes.loadgen and apart.task.runtime != "null":  # LoadGen would draw a query for each of its microseconds
            say(f"{who}: driven by LoadGen")
            if (both := apart.ask("loadgen", queries, seconds)) is not None:
                found[apart]["loadgen"] = loadgen.summarise(*both)
    for apart in timed if modes.soak_minutes else ():
        if apart.task.runtime != "null":  # it does nothing, for millions of queries a second
            found[apart]["soak"] = soak.run(apart, modes.soak_minutes, say, sensors)
    return found


def _batches(
    batches: Sequence[int], timed: Sequence[Apart], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[Apart, dict[int, list[Round] | str]]:
    """Rounds of each batch size on each worker, in a new random order each time; one line where an engine does not take it."""
    done: dict[Apart, dict[int, list[Round] | str]] = {apart: {} for apart in timed if batches}
    random = np.random.default_rng(1)
    turns = [(apart, batch) for apart in done for batch in batches]
    for number in range(rounds + 1):  # the first is not counted: memory for the larger arrays, kernels for the shape
        say(f"batches: warming up, then round 1 of {rounds}" if not number else f"batches: round {number} of {rounds}")
        for i in random.permutation(len(turns)):
            apart, batch = turns[i]
            before = done[apart].setdefault(batch, [])
            if isinstance(before, str) or (found := apart.ask("batched", batch, seconds / rounds)) is None:
                continue
            if isinstance(found, str):
                done[apart][batch] = found
            elif number:
                before.append(found)
    return done
