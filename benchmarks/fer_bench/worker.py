"""The process in which one bundle is measured on one runtime: it does what it is told and sleeps in between."""

from __future__ import annotations

import platform
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import energy, latency, loadgen, paced, pin
from fer_bench.energy import Span
from fer_bench.noise import Usage, usage
from fer_runtimes.averaging import Averaged, prepare_views
from fer_runtimes.bundle import read_bundle, read_reference
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput, FerError
from fer_runtimes.images import prepare
from fer_runtimes.session import Options, open_session

BATCH = 128
IMAGES = 1024  # to time on, drawn from the data: every process holds its own
QUIET = 0.1  # share of one core: a process that uses less than this sleeps
QUIET_S = 5.0
_PREPARED = 200


@dataclass(frozen=True)
class Opened:
    """Milliseconds. cold_start_ms: from the start of the process to its first answer; load_ms, first_inference_ms: parts of it."""

    cold_start_ms: float
    load_ms: float
    first_inference_ms: float


@dataclass(frozen=True)
class Round:
    """nanoseconds: of each query in order; quiet: False if the engine's threads would not sleep afterwards."""

    nanoseconds: NDArray[np.int64]
    usage: Usage
    quiet: bool
    span: Span


@dataclass(frozen=True)
class Answers:
    """logits: float32 of the data's images, or None; reference_logits: of the bundle's own; cores: that any of the
    process's threads may run on, None where the system does not tell; pinned: whether it was bound to these."""

    report: dict[str, Any]
    cores: list[int] | None
    pinned: bool
    logits: NDArray[np.float32] | None
    reference_logits: NDArray[np.float32]
    prepare_ms: float
    peak_rss_bytes: int
    rss_over_bare_bytes: int


class Worker:
    """Opens the bundle and answers its first image. Methods are called by name from the process that measures.

    started_ns: when this process was started, on the clock that processes share (time.monotonic_ns);
    images: a .npy of uint8 ``[N, V, S, S]`` to time and to answer, None for the bundle's own;
    pinned: whether to bind the process to as many cores as it has threads; sensors: below which they are read;
    average: name of the V views of a face that one query answers together, by their mean; empty where V is 1
    digest: what the bundle's must be; empty for any
    """

    def __init__(
        self,
        bundle: Path,
        runtime: str,
        options: Options,
        images: Path | None,
        started_ns: int,
        pinned: bool,
        sensors: Path,
        average: str = "",
        digest: str = "",
    ) -> None:
        self._pinned = pinned and pin.bind(options.threads)
        self._sensors = sensors
        self._average = average
        self._bundle = read_bundle(bundle)
        if digest and self._bundle.digest != digest:
            raise BadInput(f"{bundle}: was replaced while it was measured; run this again")
        began_own = time.monotonic_ns()
        self._reference = read_reference(self._bundle)
        self._faces = np.load(images, mmap_mode="r") if images else None
        source = self._reference.images if self._faces is None else self._faces
        self._random = np.random.default_rng(0)
        chosen = self._random.permutation(len(source))[:IMAGES]
        # copied, so that they are in memory, and in the bare process's memory, before the engine comes
        self._images = [_views(np.array(source[i : i + 1])) for i in chosen]
        self._batches: dict[int, list[NDArray[np.uint8]]] = {}
        self._bare_rss = _peak_rss()
        began = time.monotonic_ns()
        self._engine = open_session(self._bundle, runtime, options)
        self._session = Averaged(self._engine, len(self._images[0])) if average else self._engine
        loaded = time.monotonic_ns()
        self._session.infer(self._images[0])
        answered = time.monotonic_ns()
        self._peak_rss = _peak_rss()
        # reading the images is the benchmark's own business
        cold = answered - started_ns - (began - began_own)
        self.opened = Opened(cold / 1e6, (loaded - began) / 1e6, (answered - loaded) / 1e6)
        _sleep_till_quiet()

    def settle(self, limit_s: float) -> bool:
        """Warms up; False if the figures would not settle."""
        settled = latency.settle(self._session, self._images, self._random, limit_s)
        _sleep_till_quiet()
        return settled

    def round(self, queries: int, seconds: float) -> Round:
        """Times at least so many queries, and for at least so long, after a few untimed ones."""
        done = self._round(self._images, queries, seconds)
        self._peak_rss = _peak_rss()  # before batches, which no camera sends, and what other modes need
        return done

    def batched(self, batch: int, seconds: float) -> Round | str:
        """Times queries of so many images each, for at least so long; one line if the engine does not take them."""
        if not self._session.batches:
            return "the engine is given one image at a time"
        if batch not in self._batches:
            order = self._random.integers(0, len(self._images), (max(4, IMAGES // batch), batch))
            self._batches[batch] = [np.concatenate([self._images[i] for i in chosen]) for chosen in order]
        try:
            return self._round(self._batches[batch], 1, seconds)
        except Exception as error:  # an engine built for fewer has answered one at a time all the same
            return " ".join(str(error).split())

    def _round(self, images: latency.Images, queries: int, seconds: float) -> Round:
        marks: list[tuple[int, float | None]] = []

        def mark() -> None:
            marks.append((time.monotonic_ns(), energy.counted(self._sensors)))

        before = usage()
        taken = latency.window(self._session, images, self._random, queries, seconds, latency.LEAD_IN, mark)
        used = usage() - before
        (began, first), (ended, last) = marks
        return Round(taken, used, _sleep_till_quiet(), Span(began, ended, energy.used(first, last), len(taken)))

    def stretch(self, seconds: float) -> NDArray[np.int64]:
        """Nanoseconds of queries for at least so long, without a pause before or after."""
        return latency.window(self._session, self._images, self._random, 1, seconds)

    def pace(self, fps: float, seconds: float) -> paced.Frames:
        """Answers frames as they fall due."""
        for image in self._images[: latency.LEAD_IN]:
            self._session.infer(image)
        return paced.pace(self._session, self._images, self._random, fps, seconds)

    def after_idle(self) -> NDArray[np.int64]:
        """Times single frames that come after a pause."""
        return paced.after_idle(self._session, self._images, self._random)

    def loadgen(self, queries: int, seconds: float) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """What LoadGen says of at least so many queries and seconds, and our own times of as many."""
        for image in self._images[: latency.LEAD_IN]:
            self._session.infer(image)
        both = loadgen.drive(self._session, self._images, self._random, queries, seconds)
        _sleep_till_quiet()
        return both

    def answer(self) -> Answers:
        """The logits, and what else is known only now."""
        logits = None
        if (faces := self._faces) is not None:
            parts = [self._session.infer(_views(np.asarray(faces[i : i + BATCH]))) for i in range(0, len(faces), BATCH)]
            logits = np.concatenate(parts)
        # parity is of the net as it is; some one by one, as they are timed, the others together
        known = self._reference.images
        single = [known[i : i + 1] for i in range(min(len(known), IMAGES))]
        together = [known[i : i + BATCH] for i in range(IMAGES, len(known), BATCH)]
        reference_logits = np.concatenate([self._engine.infer(part) for part in [*single, *together]])
        report = vars(self._session.report())
        return Answers(
            report,
            pin.allowed(),
            self._pinned,
            logits,
            reference_logits,
            self._prepare_ms(),
            _peak_rss(),
            self._peak_rss - self._bare_rss,
        )

    def close(self) -> None:
        """Lets go of the engine."""
        self._session.close()

    def _prepare_ms(self) -> float:
        """Median time of bringing one 48x48 face to the net's input, all its views where there are several."""
        face, manifest = drawn_faces(1, seed=0).images, self._bundle.manifest
        taken = []
        for _ in range(_PREPARED):
            began = time.perf_counter_ns()
            if self._average:
                prepare_views(face, manifest.size, manifest.crop, self._average)
            else:
                prepare(face, manifest.size, manifest.crop)
            taken.append(time.perf_counter_ns() - began)
        return float(np.median(taken) / 1e6)


def _views(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 ``[N, V, S, S]`` to images one after the other, ``[N * V, 1, S, S]``."""
    return faces.reshape(-1, 1, *faces.shape[2:])


def serve(pipe: Connection, *arguments: Any) -> None:
    """The process's main function: opens a Worker, then calls its methods as they are named until the pipe closes.

    Sends ``(error, value)`` each time: one line where it could not be done, else what came of it.
    After an error there is nothing more to ask.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that measures decides when this one ends
    try:
        worker = Worker(*arguments)
        pipe.send((None, worker.opened))
        while True:
            name, values = pipe.recv()
            pipe.send((None, getattr(worker, name)(*values)))
    except (EOFError, ConnectionError):
        return
    except FerError as error:
        pipe.send((str(error), None))
    except Exception as error:  # an engine's own error costs its row, not the others'
        pipe.send((f"{type(error).__name__}: {error}", None))


def _sleep_till_quiet() -> bool:
    """Waits until no thread of this process is at work; False if one still is after 5 s.

    Pools of threads spin for a while after the last query, in case of another: ONNX Runtime's for
    over a second on some processors. The next runtime must not be measured beside that.
    """
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        began, used = time.monotonic(), time.process_time()
        time.sleep(0.05)  # long enough that a thread which waits for a core on a busy machine shows
        if time.process_time() - used < QUIET * (time.monotonic() - began):
            return True
    return False


def _peak_rss() -> int:
    """Peak resident memory of this process, bytes. On Linux getrusage would count what the parent held before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024
