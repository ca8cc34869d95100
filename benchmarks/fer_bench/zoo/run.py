"""From bundles to figures: each net on each runtime, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fer_bench.bench import FORMAT, Job, bench
from fer_bench.history.text import plain
from fer_bench.noise import BUSY, memory
from fer_bench.stats import SURE
from fer_bench.zoo.exports import Exported
from fer_runtimes.session import Options

_PROCESS_BYTES = 100e6  # a runtime's own
_COPIES = 4  # of the weights: as read, and as the engine packs them, with room for the activations
_KEPT = ("runtime", "target", "device", "compute", "threads", "notes", "latency_ms", "load_ms", "model_bytes")


def run(
    exported: Sequence[Exported],
    targets: dict[str, str],
    options: Options,
    queries: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures every net on every runtime and returns the result file's content (``docs/zoo.md``).

    targets: of each runtime, what its bundle is of; queries, seconds: at least, for each net and runtime.
    As many nets as half of the free memory holds take turns with one another; their ``group`` says which.
    """
    groups = _groups([one for one in exported if not one.error], len(targets))
    rows: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    content: dict[str, Any] = {}
    busy: list[float] = []
    for number, group in enumerate(groups, 1):
        jobs = [Job(runtime, one.bundles[target]) for one in group for runtime, target in targets.items()]
        where = f"group {number} of {len(groups)}: " if len(groups) > 1 else ""
        found = bench(jobs, None, options, queries, lambda text, where=where: say(where + text), seconds)  # type: ignore[misc]
        content = content or {key: found[key] for key in ("made", "environment")}
        busy.append(found["environment"]["busy_share"] or 0.0)
        for i, one in enumerate(group):
            rows[one.row.model] = (number, found["results"][i * len(targets) : (i + 1) * len(targets)])
    if busy:
        content["environment"] |= {"busy_share": max(busy)}
    nets = [_net(one, *rows.get(one.row.model, (None, []))) for one in exported]
    _compare(nets)
    return {"format": FORMAT, **content, "queries": queries, "seconds": seconds, "nets": nets}


def _groups(exported: Sequence[Exported], runtimes: int) -> list[list[Exported]]:
    """Nets in their order, each group within half of the memory that is free; all in one where the system does not tell."""
    free = memory()
    room = free[0] / 2 if free else float("inf")
    groups: list[list[Exported]] = []
    left = 0.0
    for one in exported:
        need = sum(_COPIES * bundle.model_bytes for bundle in one.bundles.values()) + runtimes * _PROCESS_BYTES
        if not groups or need > left:
            groups.append([])
            left = room
        groups[-1].append(one)
        left -= need
    return groups


def _net(one: Exported, group: int | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    metrics = one.metrics or {}
    accuracy, split = metrics.get("accuracy"), metrics.get("split")
    size = next((bundle.manifest.source for bundle in one.bundles.values()), None)
    proof = size and size["fold_proof"]
    inputs = next((bundle.manifest.size for bundle in one.bundles.values()), one.row.size)
    return {
        **{key: getattr(one.row, key) for key in ("name", "year", "paper", "model", "source")},
        "size": inputs,
        "trained": one.metrics is not None,
        "accuracy": accuracy if isinstance(accuracy, float) else None,  # a stranger's file may hold anything
        "split": plain(str(split)) if split else None,
        "parameters": proof and proof["before"]["parameters"],
        "parameters_folded": size and size["parameters"],
        "macs": size and size["macs"],
        "parity_images": next((b.manifest.parity["images"] for b in one.bundles.values() if b.manifest.parity), None),
        "group": group,
        "error": one.error,
        "results": [_result(row) for row in rows],
    }


def _result(row: dict[str, Any]) -> dict[str, Any]:
    """unsure: why p50 may be off by more than 5 %, in one line; None where nothing speaks for that."""
    latency = row["latency_ms"] or {}
    interval, p50 = latency.get("p50_interval"), latency.get("p50")
    reach = (interval[1] - interval[0]) / 2 / p50 if interval and p50 else None
    doubts = [
        "too few queries for an interval" if p50 and reach is None else None,
        f"its interval reaches ±{reach:.0%}" if reach is not None and reach > SURE else None,
        f"other programs took {row['busy_share']:.0%} of the processors" if (row["busy_share"] or 0) > BUSY else None,
        *(note for note in row["notes"] or () if note.startswith("not settled")),
    ]
    return {
        **{key: row[key] for key in _KEPT},
        "error": row["error"] or row["parity_failure"],
        "reach": reach,
        "unsure": "; ".join(filter(None, doubts)) or None,
    }


def _compare(nets: list[dict[str, Any]]) -> None:
    """Adds, to each result, ``ns_per_mac`` and that over the least of its runtime, ``times_best``."""
    by_runtime: dict[str, list[dict[str, Any]]] = {}
    for net in nets:
        for result in net["results"]:
            p50 = (result["latency_ms"] or {}).get("p50")
            result["ns_per_mac"] = p50 * 1e6 / net["macs"] if p50 and not result["error"] else None
            result["times_best"] = None
            if result["ns_per_mac"]:
                by_runtime.setdefault(result["runtime"], []).append(result)
    for results in by_runtime.values():
        best = min(result["ns_per_mac"] for result in results)
        for result in results:
            result["times_best"] = result["ns_per_mac"] / best
