"""Bundles on runtimes, each in a process of its own, measured in turns.

A process apiece keeps thread pools from fighting, makes load time and memory mean something, and
lets a runtime that dies cost its own row and no other. All are open at once and take turns, in a new
random order each round, so that a machine that warms up or slows down does so for all alike; while
one is at work the others sleep.

Where the system happens to lay a process's memory moves its times by several percent for as long as it
lives (Mytkowicz et al., ASPLOS 2009). So each runtime is started afresh several times, and what one
process took is one sample.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import modes as further
from fer_bench import noise
from fer_bench.energy import Meter
from fer_bench.latency import AGAIN_S, SETTLE_S, STEADY
from fer_bench.modes import Modes
from fer_bench.worker import QUIET_S, Answers, Opened, Round, serve
from fer_runtimes.engines import ENGINES
from fer_runtimes.session import Options

# Turns are short, so that what slows the machine for a second meets all alike; each costs a twentieth of a second's sleep.
ROUND = 25  # queries, at least; a round of a fast runtime is as many as fill its share of the time
ROUNDS = (12, 48)  # at least: intervals come from resampling them, or the processes that they belong to; and at most
PROCESSES = 6  # at most, one after another: as many as an interval needs; a PyTorch takes seconds to start
QUERIES_APIECE = 160  # that a process must be worth starting for: MLPerf's 1,024 are six
SENSORS = Path("/")


@dataclass(frozen=True)
class Task:
    """images: a .npy of uint8 ``[N, V, S, S]`` to answer and to time on, V views of each face; None for the bundle's own.

    average: name of these views (``fer_runtimes.averaging``), empty for one view of each
    digest: of the bundle that the figures are of; one that was replaced meanwhile is an error. Empty for whatever is there
    """

    bundle: Path
    runtime: str
    images: Path | None
    average: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Measured:
    """What a task's processes brought back. rounds: nanoseconds of each query, by process or, where there was but one, by
    round; none where the time would say nothing of the engine.

    opened: medians over the processes; busy_share: of the processors, what others took during its rounds; energy, modes: a row's ``energy``, and its other
    keys of ``modes.KEYS``
    """

    opened: Opened
    rounds: list[NDArray[np.int64]]
    switches: int
    notes: tuple[str, ...]
    answers: Answers
    busy_share: float | None = None
    energy: dict[str, Any] | None = None
    modes: dict[str, Any] = field(default_factory=dict)


class Apart:
    """A worker's process. Once it has failed, ``error`` says why in one line and ``ask`` returns None."""

    def __init__(self, task: Task, options: Options, pin: bool = True, sensors: Path = SENSORS) -> None:
        self.task = task
        self.error: str | None = None
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        started = time.monotonic_ns()
        of_task = (task.bundle, task.runtime, options, task.images, started, pin, sensors, task.average, task.digest)
        self.process = context.Process(target=serve, args=(there, *of_task), name=task.runtime, daemon=True)
        self.process.start()
        there.close()  # else the pipe would stay open when the process dies
        self.opened: Opened | None = self._receive()

    def ask(self, name: str, *values: Any) -> Any:
        """What the worker's method of that name returns."""
        if self.error is not None:
            return None
        try:
            self._pipe.send((name, values))
        except OSError:
            return self._died()
        return self._receive()

    def _receive(self) -> Any:
        try:
            error, value = self._pipe.recv()
        except (EOFError, OSError):
            return self._died()
        self.error = error and " ".join(error.split())
        return value

    def _died(self) -> None:
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.error = f"runtime {self.task.runtime} died while it was measured ({how}: a crash, or killed for memory)"

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()  # the worker ends by itself if it waits, and is ended if it does not
        if kind is not None:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass
class _Taken:
    """What a task's processes have brought so far; ``error`` ends it."""

    task: Task
    error: str | None = None
    opened: list[Opened] = field(default_factory=list)
    settled: bool = True
    processes: list[list[Round]] = field(default_factory=list)
    measured: Measured | None = None


def processes_for(queries: int) -> int:
    """How many fresh processes so many queries of a runtime are spread over."""
    return min(PROCESSES, max(1, queries // QUERIES_APIECE))


def measure(
    tasks: Sequence[Task],
    options: Options,
    queries: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
    modes: Modes = Modes(),  # noqa: B008
    sensors: Path = SENSORS,
    processes: int = 1,
) -> tuple[list[Measured | str], dict[str, Any]]:
    """Measures all tasks in turns; one line of text stands for one that cannot run or dies.

    queries, seconds: at least, for each task; modes: what else to measure after the rounds, in the last process;
    sensors: below which those of power and energy are read; processes: how often each task is started afresh.
    Also returns what the machine did meanwhile: ``busy_share`` and ``steal_share`` of ``noise.summary`` and, once all are
    open, ``memory_available_bytes`` and ``memory_bytes`` (None where the system does not tell).
    """
    apiece = math.ceil(min(queries, int(np.clip(math.ceil(queries / ROUND), *ROUNDS))) / processes)
    count = apiece * processes
    every, random = [_Taken(task) for task in tasks], np.random.default_rng(0)
    memory: tuple[int | None, int | None] = (None, None)
    with Meter(sensors) as meter:
        for process in range(processes):
            last = process == processes - 1
            of = f", process {process + 1} of {processes}" if processes > 1 else ""
            with ExitStack() as stack:
                apart: dict[int, Apart] = {}
                for i, taken in enumerate(every):
                    if taken.error is None and (last or _timed(taken.task)):
                        say(f"{taken.task.runtime} on {taken.task.bundle.name}: opening{of}")
                        apart[i] = stack.enter_context(Apart(taken.task, options, modes.pin, sensors))
                memory = noise.memory() or memory
                timed = {i: one for i, one in apart.items() if _timed(one.task)}
                for i, one in timed.items():
                    say(f"{one.task.runtime} on {one.task.bundle.name}: warming up{of}")
                    every[i].settled &= bool(one.ask("settle", AGAIN_S if process else SETTLE_S))
                    every[i].processes.append([])
                if not process:
                    meter.rest()
                for number in range(process * apiece, (process + 1) * apiece):
                    say(f"round {number + 1} of {count}{of}")
                    for i in random.permutation(list(timed)).tolist():
                        if done := timed[i].ask("round", math.ceil(queries / count), seconds / count):
                            every[i].processes[-1].append(done)
                found = further.run(modes, list(timed.values()), count, queries, seconds, say, sensors) if last else {}
                for i, one in apart.items():
                    if last:
                        say(f"{one.task.runtime} on {one.task.bundle.name}: answering")
                        answers = one.ask("answer")
                    every[i].error = one.error
                    if one.error is None and one.opened is not None:
                        every[i].opened.append(one.opened)
                        one.ask("close")  # an engine that dies of this has answered all the same
                        if last:
                            every[i].measured = _measured(every[i], answers, modes, options, meter, found.get(one, {}))
        spans = [done.usage for taken in every for part in taken.processes for done in part]
    results = [taken.measured or taken.error or "nothing came back" for taken in every]
    return results, noise.summary(spans) | {"memory_available_bytes": memory[0], "memory_bytes": memory[1]}


def _timed(task: Task) -> bool:
    return ENGINES[task.runtime].timed


def _measured(
    taken: _Taken, answers: Answers, modes: Modes, options: Options, meter: Meter, found: dict[str, Any]
) -> Measured:
    rounds = [done for part in taken.processes for done in part]
    blocks = taken.processes if len(taken.processes) > 1 else [[done] for done in rounds]
    return Measured(
        Opened(**{key: float(np.median([vars(one)[key] for one in taken.opened])) for key in vars(taken.opened[0])}),
        [np.concatenate([done.nanoseconds for done in block]) for block in blocks],
        sum(done.usage.switches for done in rounds),
        _notes(taken.settled, rounds) + _unbound(modes.pin, options.threads, answers),
        answers,
        noise.busy_share(done.usage for done in rounds),
        meter.summarise([done.span for done in rounds]),
        found,
    )


def _notes(settled: bool, rounds: Sequence[Round]) -> tuple[str, ...]:
    notes = []
    if not settled:
        notes.append(f"not settled: after warming up its medians still differed by over {STEADY:.0%}")
    if not all(done.quiet for done in rounds):
        notes.append(f"its threads still ran {QUIET_S:g} s after its rounds, and so beside the other runtimes'")
    return tuple(notes)


def _unbound(wanted: bool, threads: int, answers: Answers) -> tuple[str, ...]:
    if wanted and answers.cores is None:
        return ("not bound to cores: this system does not let a process be",)
    if answers.pinned and len(answers.cores or ()) > threads:
        return (f"bound to {threads} of the cores, it has threads that may run on others",)
    return ()
