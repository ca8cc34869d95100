"""A run: what one machine measured in one go, read from a result file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.history.figures import Row, checked_row
from fer_bench.history.text import plain
from fer_bench.merge import Results, parse_results
from fer_runtimes.errors import BadInput


@dataclass(frozen=True)
class Run:
    """What one machine measured in one go.

    name: what messages and tables call it; digest: of its content, the same in a file of its own and
    in a merged one; made: when, UTC, None where its file does not say; id: None if it stands in no database
    """

    name: str
    digest: str
    machine: str
    made: datetime | None
    environment: dict[str, Any]
    data: dict[str, Any] | None
    rows: list[Row]
    id: int | None = None

    @property
    def commit(self) -> str:
        """The commit that was measured, empty where there is none."""
        return plain(self.environment.get("commit") or "")

    @property
    def data_name(self) -> str:
        """The data set and split, empty without one."""
        return plain(f"{self.data['name']} {self.data['split']}") if self.data else ""

    @property
    def date(self) -> str:
        """When it was made, as tables show it."""
        return self.made.strftime("%Y-%m-%d %H:%M") if self.made else "unknown"


def read_runs(path: Path) -> tuple[list[Run], bytes]:
    """The runs in a result file, one a machine, and the file's bytes.

    Raises BadInput if it is cut short, of another format, or holds what no result file does; OSError if it cannot be read.
    """
    content = path.read_bytes()
    return parse_runs(content, str(path)), content


def parse_runs(content: bytes, source: str) -> list[Run]:
    """The same from a file's bytes; ``source`` is what messages call it."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{source}: not a result file of fer-bench ({error})") from error
    return runs_of(parse_results(text, source), source)


def runs_of(results: Results, source: str) -> list[Run]:
    """The runs of a result file's content, one a machine, in the file's order."""
    machines, rows = results.get("machines") or {None: results}, results["results"]
    if not isinstance(machines, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{source}: its results are not as docs/results.md has them; measure again")
    found = []
    for name, facts in machines.items():
        own = [row | {"machine": None} for row in rows if row.get("machine") == name]
        found.append(run_of(facts, own, name, f"{source} ({plain(name)})" if len(machines) > 1 else source))
    if sum(len(run.rows) for run in found) < len(rows):
        raise BadInput(f"{source}: results of a machine that it does not describe; measure again")
    return found


def run_of(
    facts: object,
    rows: list[object],
    machine: str | None,
    called: str,
    digest: str | None = None,
    number: int | None = None,
) -> Run:
    """A run of what a result file says of a machine, and its rows. Raises BadInput if that is not what such files hold.

    machine: None takes the name that the machine has for itself; digest: None makes it
    """
    if not isinstance(facts, dict) or not isinstance(environment := facts.get("environment"), dict):
        raise BadInput(f"{called}: nothing is said of the machine; measure again")
    if not rows:
        raise BadInput(f"{called}: no results in it; measure again")
    checked = [checked_row(row, called) for row in rows]
    data, made = _checked_data(facts.get("data"), called), _checked_time(facts.get("made"), called)
    return Run(
        name=called,
        digest=digest or _digest([made and made.isoformat(), environment, data, rows]),
        machine=plain(machine or environment.get("host") or "unknown"),
        made=made,
        environment=environment,
        data=data,
        rows=checked,
        id=number,
    )


def only(runs: Sequence[Run], machine: str = "*", runtime: str = "*", bundle: str = "*") -> list[Run]:
    """The runs whose machine fits the pattern (``*``, ``?``), with those rows whose runtime and bundle do; runs without any are left out."""

    def fits(row: Row) -> bool:
        return fnmatchcase(row["runtime"], runtime) and fnmatchcase(row["bundle"] or "", bundle)

    left = [replace(run, rows=[*filter(fits, run.rows)]) for run in runs if fnmatchcase(run.machine, machine)]
    return [run for run in left if run.rows]


def rounds_of(row: Row, source: str) -> list[NDArray[np.int64]] | None:
    """The raw times of a row in nanoseconds, one array a round; None where they were not kept."""
    if row.get("raw_ns") is None:
        return None
    try:
        rounds = [np.array(taken, np.int64) for taken in row["raw_ns"]]
    except (TypeError, ValueError, OverflowError):
        rounds = []
    if not rounds or any(taken.ndim != 1 or not len(taken) or taken.min() <= 0 for taken in rounds):
        raise BadInput(f"{source}: raw_ns of {plain(row['runtime'])} are no times; measure again")
    return rounds


def _checked_data(data: object, source: str) -> dict[str, Any] | None:
    if data is None:
        return None
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("name", "split", "sha256")):
        raise BadInput(f"{source}: its data have no name, split or digest; measure again")
    return data


def _checked_time(made: object, source: str) -> datetime | None:
    """The moment in UTC; None where the file, an old one, does not say."""
    if made is None:
        return None
    try:
        moment = datetime.fromisoformat(str(made).replace("Z", "+00:00"))
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{source}: made is {plain(made)[:40]!r}, not a time in ISO 8601 with its zone") from error


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
