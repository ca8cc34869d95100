"""Is the harness in the way? Its p50 beside that of the engines' own tools, on the same files, in turns.

OpenVINO's tool is ``benchmark_app``, of its wheel. Its latency is the engine's own clock, without the
call from Python; ours is the wall time that a program in Python sees, with the answer checked and
copied. ONNX Runtime has no such tool in its wheel: its side is the plain loop that its documents show.
Every round takes a fresh process on either side, since where a process's memory happens to lie moves
its p50 by a few per cent.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import typer
from numpy.typing import NDArray

from fer_bench import options, stats
from fer_bench.measure import Apart, Task
from fer_bench.noise import BUSY, summary
from fer_bench.worker import Round
from fer_runtimes import console
from fer_runtimes.bundle import Bundle, read_bundle, read_reference
from fer_runtimes.errors import CheckFailed, NotAvailable
from fer_runtimes.session import Options

ALLOWED = 0.03  # share of p50
_WARM_S = 1.0
UNDER, OVER = f"under {ALLOWED:.0%}", f"over {ALLOWED:.0%}"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@dataclass(frozen=True)
class Pair:
    """One comparison. theirs: p50 of a round, nanoseconds, from a bundle, threads and queries."""

    runtime: str
    target: str
    tool: str
    theirs: Callable[[Bundle, int, int], float]


def benchmark_app(bundle: Bundle, threads: int, queries: int) -> float:
    """Median latency, nanoseconds, that OpenVINO's benchmark_app prints for one image at a time. Raises NotAvailable if it does not run."""
    tool = Path(sys.executable).with_name("benchmark_app")
    shape = f"[1,1,{bundle.manifest.size},{bundle.manifest.size}]"
    settings = ["-hint", "none", "-api", "sync", "-nstreams", "1", "-nireq", "1", "-infer_precision", "f32"]
    command = [str(tool), "-m", str(bundle.file(".xml")), "-data_shape", shape, "-nthreads", str(threads)]
    try:
        done = subprocess.run([*command, *settings, "-niter", str(queries)], capture_output=True, text=True)
    except OSError as error:
        raise NotAvailable(
            f"benchmark_app does not start ({error.strerror}); pip install 'fer-edge[openvino]'"
        ) from error
    found = re.search(r"Median:\s+([0-9.]+) (us|ms)", done.stdout)
    if done.returncode or not found:
        raise NotAvailable(f"benchmark_app gave no median: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(found[1]) * {"us": 1e3, "ms": 1e6}[found[2]]


def plain_loop(bundle: Bundle, threads: int, queries: int) -> float:
    """Median latency, nanoseconds, of ONNX Runtime called in a loop, in a fresh process."""
    images = read_reference(bundle).images
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_loop, bundle.file(".onnx"), images, threads, queries).result()


def _loop(model: Path, images: NDArray[np.uint8], threads: int, queries: int) -> float:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), settings, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ones = [images[i : i + 1] for i in range(len(images))]
    until = time.perf_counter() + _WARM_S
    while time.perf_counter() < until:
        session.run(None, {name: ones[0]})
    taken = []
    for i in range(queries):
        began = time.perf_counter_ns()
        session.run(None, {name: ones[i % len(ones)]})
        taken.append(time.perf_counter_ns() - began)
    return float(np.median(taken))


PAIRS = (
    Pair("openvino", "openvino", "benchmark_app", benchmark_app),
    Pair("onnxruntime", "onnx", "plain Python loop", plain_loop),
)


def ours(bundle: Bundle, runtime: str, threads: int, queries: int) -> Round:
    """A round of fer-bench's own worker in a fresh process. Raises NotAvailable if it fails."""
    with Apart(Task(bundle.path, runtime, None), Options("", threads)) as apart:
        apart.ask("settle")
        done = apart.ask("round", queries, 0.0)
        if apart.error or done is None:
            raise NotAvailable(apart.error or f"{runtime} gave no times")
        return done  # type: ignore[no-any-return]


@app.command()
def overhead(
    model: Annotated[
        Optional[Path], typer.Option(help="Folder of bundles. Default: the shipped checkpoint's, exported and cached.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=stats.ROUNDS_NEEDED, help="Rounds, a fresh process on either side.")] = 15,
    queries: Annotated[int, typer.Option(min=100, help="Timed inferences a round.")] = 2000,
    threads: options.Threads = 0,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Measures what fer-bench adds to the p50 of the engines' own tools: exit code 1 if that is shown to be over 3 %.

    Examples:

    * `python -m evidence.overhead`

    * `python -m evidence.overhead --model build/ --threads 1`
    """
    from rich.console import Console

    from evidence.output import show
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    names = [pair.runtime for pair in PAIRS]
    jobs = jobs_of_models([model], names, names) if model else jobs_of_checkpoint(None, names, screen.print)
    cores = threads or console.usable_cores()
    rows: list[list[str]] = []
    over: list[str] = []
    with screen.status("") as status:
        for pair in PAIRS:
            job = next(job for job in jobs if job.runtime == pair.runtime and _is_plain(job.bundle, pair.target))
            bundle = read_bundle(job.bundle.path) if job.bundle else None
            if bundle is None or job.error:
                raise NotAvailable(job.error or f"no bundle for {pair.runtime}")
            theirs: list[float] = []
            own: list[Round] = []
            for number in range(rounds):
                status.update(f"{pair.runtime}: round {number + 1} of {rounds}")
                for mine in (True, False) if number % 2 else (False, True):
                    if mine:
                        own.append(ours(bundle, pair.runtime, cores, queries))
                    else:
                        theirs.append(pair.theirs(bundle, cores, queries))
            found = stats.ratio(pair.tool, [done.nanoseconds for done in own], [np.array([t]) for t in theirs])
            low, high = found.low or 0.0, found.high or 0.0
            others = summary(done.usage for done in own)["busy_share"] or 0.0
            verdict = _verdict(low, high, others)
            over += [pair.runtime] if verdict == OVER else []
            rows.append(
                [
                    pair.runtime,
                    pair.tool,
                    f"{np.median(theirs) / 1e3:.1f}",
                    f"{np.median([np.median(done.nanoseconds) for done in own]) / 1e3:.1f}",
                    f"{found.value - 1:+.1%}",
                    f"{low - 1:+.1%} to {high - 1:+.1%}",
                    verdict,
                ]
            )
    headings = ["engine", "its own tool", "p50 us", "fer-bench p50 us", "overhead", "95 %", "verdict"]
    words = [f"{cores} threads", f"{rounds} rounds in turns of {queries} queries, each in a fresh process"]
    show(headings, rows, words, markdown_out)
    if over:
        raise CheckFailed(f"the harness adds over 3 % to {', '.join(over)}")


def _verdict(low: float, high: float, busy: float) -> str:
    """low, high: 95 % interval of ours over theirs; busy: share of the processors that went to others."""
    if busy > BUSY:
        return f"cannot tell: others took {busy:.0%} of the processors"
    return UNDER if high <= 1 + ALLOWED else OVER if low > 1 + ALLOWED else "cannot tell: take more rounds"


def _is_plain(bundle: Bundle | None, target: str) -> bool:
    return bundle is None or (bundle.manifest.target == target and bundle.manifest.precision == "fp32")


if __name__ == "__main__":
    console.run(app)
