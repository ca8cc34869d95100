"""Is the harness in the way? What it measures beside what the engines' own tools do, on the same opened model, in turns.

OpenVINO's tool is ``benchmark_app``: its own loop runs here, on the session's own request. It reads two
clocks and so does this comparison, like with like: the engine's, which stops before the call returns
to Python, and the wall, from which it tells images a second. ONNX Runtime's wheel has no such tool; its
side is the plain loop that its documents show. Both sides share a process, since where a process's
memory happens to lie moves p50 by a tenth and more; several processes are taken one after another.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from numpy.typing import NDArray

from fer_bench import latency, options, stats
from fer_bench.noise import BUSY, Usage, summary, usage
from fer_runtimes import console
from fer_runtimes.bundle import Bundle, read_bundle, read_reference
from fer_runtimes.errors import CheckFailed, NotAvailable
from fer_runtimes.session import Options, Session, open_session

ALLOWED = 0.03
PROCESSES = 3
UNDER, OVER = f"under {ALLOWED:.0%}", f"over {ALLOWED:.0%}"

Turn = Callable[[Session, latency.Images, np.random.Generator, int], float]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@dataclass(frozen=True)
class Pair:
    """One comparison. theirs, ours: a figure of so many queries on an opened session, nanoseconds."""

    runtime: str
    target: str
    tool: str
    figure: str
    theirs: Turn
    ours: Turn


class _OneImage:
    """What benchmark_app's loop asks for its input: it stays as it is."""

    def get_next_batch_size(self) -> int:
        return 1


class _Clocked:
    """The session, and beside each answer what the engine's clock says of it."""

    def __init__(self, session: Session) -> None:
        self._session, self.nanoseconds = session, list[float]()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = self._session.infer(images)
        self.nanoseconds.append(self._session._request.latency * 1e6)  # type: ignore[attr-defined]
        return logits


def _benchmark_app(session: Any, queries: int) -> tuple[float, float]:
    """Median latency and time per iteration of benchmark_app's own loop, nanoseconds."""
    from openvino.tools.benchmark.benchmark import Benchmark

    loop = Benchmark("CPU", 1, queries, None, "sync", inference_only=True)
    taken, seconds, count = loop.sync_inference(session._request, _OneImage())
    return float(np.median(taken)) * 1e6, seconds / count * 1e9


def app_engine(session: Session, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """benchmark_app's median latency: the engine's clock."""
    return _benchmark_app(session, queries)[0]


def app_wall(session: Session, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """One over benchmark_app's images a second."""
    return _benchmark_app(session, queries)[1]


def our_engine(session: Session, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """The same clock, read while fer-bench's loop runs."""
    clocked = _Clocked(session)
    latency.window(clocked, images, random, queries, 0)  # type: ignore[arg-type]
    return float(np.median(clocked.nanoseconds))


def our_mean(session: Session, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """fer-bench's mean."""
    return float(latency.window(session, images, random, queries, 0).mean())


def our_p50(session: Session, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """fer-bench's p50."""
    return float(np.median(latency.window(session, images, random, queries, 0)))


def plain_p50(session: Any, images: latency.Images, random: np.random.Generator, queries: int) -> float:
    """The median of ONNX Runtime called in a loop."""
    run, name = session._session.run, session._input
    order = random.integers(0, len(images), queries).tolist()
    taken = []
    for i in order:
        began = time.perf_counter_ns()
        run(None, {name: images[i]})
        taken.append(time.perf_counter_ns() - began)
    return float(np.median(taken))


PAIRS = (
    Pair("openvino", "openvino", "benchmark_app", "p50, the engine's clock", app_engine, our_engine),
    Pair("openvino", "openvino", "benchmark_app", "mean, wall", app_wall, our_mean),
    Pair("onnxruntime", "onnx", "plain Python loop", "p50, wall", plain_p50, our_p50),
)


def in_turns(
    path: Path, pair: Pair, threads: int, rounds: int, queries: int
) -> tuple[list[tuple[float, float]], Usage]:
    """Theirs and ours, nanoseconds, round by round, each first in every other; and what the machine did meanwhile."""
    bundle, random = read_bundle(path), np.random.default_rng(0)
    faces = read_reference(bundle).images
    images = [faces[i : i + 1].copy() for i in range(len(faces))]
    with open_session(bundle, pair.runtime, Options("", threads)) as session:
        latency.settle(session, images, random)
        before, found = usage(), []
        for number in range(rounds):
            sides: Sequence[Turn] = (pair.theirs, pair.ours)
            taken = [side(session, images, random, queries) for side in sides[:: 1 if number % 2 else -1]]
            theirs, ours = taken[:: 1 if number % 2 else -1]
            found.append((theirs, ours))
        return found, usage() - before


@app.command()
def overhead(
    model: Annotated[
        Optional[Path], typer.Option(help="Folder of bundles. Default: the shipped checkpoint's, exported and cached.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=stats.ROUNDS_NEEDED, help="Rounds in each of 3 processes.")] = 60,
    queries: Annotated[int, typer.Option(min=100, help="Timed inferences a round.")] = 300,
    threads: options.Threads = 0,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Measures what fer-bench adds to the engines' own tools: exit code 1 if that is shown to be over 3 %.

    Examples:

    * `python -m evidence.overhead`

    * `python -m evidence.overhead --model build/ --threads 1`
    """
    from rich.console import Console

    from evidence.output import show
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    names = list(dict.fromkeys(pair.runtime for pair in PAIRS))
    jobs = jobs_of_models([model], names, names) if model else jobs_of_checkpoint(None, names, screen.print)
    cores = threads or console.usable_cores()
    rows: list[list[str]] = []
    over: list[str] = []
    with screen.status("") as status:
        for pair in PAIRS:
            job = next(job for job in jobs if job.runtime == pair.runtime and _is_plain(job.bundle, pair.target))
            if job.bundle is None or job.error:
                raise NotAvailable(job.error or f"no bundle for {pair.runtime}")
            found: list[tuple[float, float]] = []
            spans: list[Usage] = []
            for number in range(PROCESSES):
                status.update(f"{pair.runtime}, {pair.figure}: process {number + 1} of {PROCESSES}")
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    done, span = pool.submit(in_turns, job.bundle.path, pair, cores, rounds, queries).result()
                found += done
                spans.append(span)
            theirs, own = ([np.array([one[side]]) for one in found] for side in (0, 1))
            ratio = stats.ratio(pair.tool, own, theirs)
            low, high = ratio.low or 0.0, ratio.high or 0.0
            told = verdict(low, high, summary(spans)["busy_share"] or 0.0)
            over += [f"{pair.runtime} ({pair.figure})"] if told == OVER else []
            medians = [f"{np.median(np.concatenate(side)) / 1e3:.1f}" for side in (theirs, own)]
            interval = f"{low - 1:+.1%} to {high - 1:+.1%}"
            rows.append([pair.runtime, pair.tool, pair.figure, *medians, f"{ratio.value - 1:+.1%}", interval, told])
    headings = ["engine", "its own tool", "figure", "its us", "fer-bench us", "overhead", "95 %", "verdict"]
    nets = {job.bundle.manifest.source["model"] for job in jobs if job.bundle}
    words = [
        *sorted(nets),
        f"{cores} threads",
        f"{PROCESSES} processes of {rounds} rounds in turns, {queries} queries each",
    ]
    show(headings, rows, words, markdown_out)
    if over:
        raise CheckFailed(f"the harness adds over 3 % to {', '.join(over)}")


def verdict(low: float, high: float, busy: float) -> str:
    """low, high: 95 % interval of ours over theirs; busy: share of the processors that went to others."""
    if busy > BUSY:
        return f"cannot tell: others took {busy:.0%} of the processors"
    return UNDER if high <= 1 + ALLOWED else OVER if low > 1 + ALLOWED else "cannot tell: take more rounds"


def _is_plain(bundle: Bundle | None, target: str) -> bool:
    return bundle is None or (bundle.manifest.target == target and bundle.manifest.precision == "fp32")


if __name__ == "__main__":
    console.run(app)
