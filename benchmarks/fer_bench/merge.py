"""Results of several machines in one file, each row with the name of the machine that made it."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from fer_bench.bench import FORMAT
from fer_runtimes.errors import BadInput

Results = dict[str, Any]
_OF_A_MACHINE = ("made", "environment", "data", "queries")  # all but made are in every file


def read_results(path: Path) -> Results:
    """A result file of ``fer-bench --json``. Raises BadInput if it is absent, cut short, or of another format."""
    try:
        return parse_results(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def parse_results(text: str, source: str) -> Results:
    """The same from text; ``source`` is what messages call it."""
    try:
        results = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source}: not a whole result file ({error}); measure again") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        found = results.get("format") if isinstance(results, dict) else type(results).__name__
        raise BadInput(f"{source}: result format {found}, this version reads {FORMAT}; measure again")
    if missing := {"environment", "data", "queries", "results"} - results.keys():
        raise BadInput(f"{source}: a result file without {', '.join(sorted(missing))}; measure again")
    return results


def merge(parts: Iterable[tuple[str | None, Results]]) -> Results:
    """One result file of several: ``(name of the machine, its results)``; without a name, the machine's own.

    A part that was merged before keeps its names. ``made``, ``environment`` and ``queries`` at the top
    are the first part's, for readers that know one machine; those of each machine stand in ``machines``.
    Raises BadInput where accuracies would stand side by side that come from different data.
    """
    machines: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name, results in parts:
        # a file of one machine is a merged file of one part, whose name is still to be found
        inner = results.get("machines") or {None: {key: results.get(key) for key in _OF_A_MACHINE}}
        names = {}
        for old, facts in inner.items():
            names[old] = _free(old or name or facts["environment"].get("host") or "machine", machines)
            machines[names[old]] = facts
        rows += [row | {"machine": names[row.get("machine")]} for row in results["results"]]
    data = [facts["data"] for facts in machines.values() if facts["data"]]
    if other := [found for found in data if any(found[key] != data[0][key] for key in ("sha256", "split"))]:
        raise BadInput(
            f"results of different data: {data[0]['name']} {data[0]['split']} ({data[0]['sha256'][:12]}) and "
            f"{other[0]['name']} {other[0]['split']} ({other[0]['sha256'][:12]}); measure all on the same, or without --data"
        )
    first = next(iter(machines.values()))
    return {
        "format": FORMAT,
        "made": first.get("made"),
        "environment": first["environment"],
        "machines": machines,
        "data": data[0] if data else None,
        "queries": first["queries"],
        "results": rows,
    }


def _free(name: str, taken: Container[str]) -> str:
    """The name, numbered if it is taken."""
    return next(free for n in count(1) if (free := name if n == 1 else f"{name} ({n})") not in taken)
