"""Runs in SQLite: each result file as it was, and what is listed, chosen by and plotted in columns of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from fer_bench.history.runs import Run, parse_runs, run_of
from fer_runtimes.errors import BadInput
from fer_runtimes.files import cache_dir

VERSION = 1  # of the schema
TIMEOUT = 30.0  # seconds that a command waits for another that writes
_OURS = 0x66657262  # "ferb", SQLite's mark for whose file it is
_SCHEMA = (
    "CREATE TABLE files (digest TEXT PRIMARY KEY, content BLOB NOT NULL)",  # SHA-256 of the file; the file, zlib
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice
        digest TEXT NOT NULL UNIQUE,
        file TEXT NOT NULL REFERENCES files,
        machine TEXT NOT NULL,
        made TEXT,  -- UTC, ISO 8601
        environment TEXT NOT NULL,  -- JSON, as the next
        data TEXT
    )""",
    """CREATE TABLE rows (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
        position INTEGER NOT NULL,
        content TEXT NOT NULL,  -- JSON, without raw_ns
        PRIMARY KEY (run, position)
    )""",
    f"PRAGMA application_id = {_OURS}",
    f"PRAGMA user_version = {VERSION}",
)


def default_path() -> Path:
    """The database that is used where none is named."""
    return cache_dir() / "history.sqlite3"


@contextmanager
def opened(path: Path, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A database in one transaction, undone if the block raises; with ``write`` it is made where there is none.

    Raises BadInput, in one line, if there is none, or it is another program's, of another version, locked or damaged.
    """
    if path.is_dir():
        raise BadInput(f"{path}: a folder; --db names the file in it")
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise BadInput(f"{path}: no history yet; fer-bench history add out.json begins one, --db names another")
    where = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}"
    try:
        with closing(sqlite3.connect(where, timeout=TIMEOUT, isolation_level=None, uri=True)) as database:
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            _check(database, path, write)
            yield database
            database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BadInput(f"{path}: locked by another program for {TIMEOUT:g} s; try again when it is done") from error
        raise BadInput(f"{path}: cannot be used as a database ({error}); --db names another") from error
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{path}: not a database of fer-bench history, or a damaged one ({error}); --db names another"
        ) from error
    except (zlib.error, TypeError, ValueError, RecursionError) as error:  # of what is stored in it
        raise BadInput(f"{path}: damaged ({error}); --db names another") from error


def add(database: sqlite3.Connection, runs: Sequence[Run], content: bytes) -> list[tuple[int, bool]]:
    """Keeps a file's runs. Returns for each its id, and whether it is new: what is there already stays as it is."""
    file, done = hashlib.sha256(content).hexdigest(), []
    for run in runs:
        known = database.execute("SELECT id FROM runs WHERE digest = ?", (run.digest,)).fetchone()
        if known:
            done.append((int(known[0]), False))
            continue
        database.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (file, zlib.compress(content)))
        columns = (
            *(run.digest, file, run.machine, run.made and run.made.isoformat()),
            *(json.dumps(run.environment), json.dumps(run.data)),
        )
        number = database.execute(
            "INSERT INTO runs (digest, file, machine, made, environment, data) VALUES (?, ?, ?, ?, ?, ?)", columns
        ).lastrowid
        assert number is not None
        rows = [{key: value for key, value in row.items() if key != "raw_ns"} for row in run.rows]
        database.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)", [(number, i, json.dumps(row)) for i, row in enumerate(rows)]
        )
        done.append((number, True))
    return done


def kept_runs(database: sqlite3.Connection) -> list[Run]:
    """All runs, without raw times.

    Oldest first, and before them those of unknown date, in the order in which they were added.
    """
    question = "SELECT id, digest, machine, made, environment, data FROM runs ORDER BY made, id"
    found = []
    for number, digest, name, made, environment, data in database.execute(question).fetchall():
        rows = database.execute("SELECT content FROM rows WHERE run = ? ORDER BY position", (number,)).fetchall()
        facts = {"made": made, "environment": json.loads(environment), "data": json.loads(data)}
        found.append(run_of(facts, [json.loads(row) for (row,) in rows], name, f"run {number}", digest, number))
    return found


def chosen(runs: Sequence[Run], name: str) -> Run:
    """The run of that id, or ``last``, or ``last~1`` for the one before, in the order of ``kept_runs``. Raises BadInput if there is none."""
    if back := re.fullmatch(r"last(?:~(\d{1,9}))?", name):
        position = len(runs) - 1 - int(back[1] or 0)
        if position < 0:
            raise BadInput(f"{name}: there are only {len(runs)} runs; fer-bench history list shows them")
        return runs[position]
    for run in runs:
        if str(run.id) == name:
            return run
    raise BadInput(f"no run {name}; fer-bench history list shows which there are")


def file_of(database: sqlite3.Connection, run: Run) -> bytes:
    """The result file that the run came in, byte for byte."""
    digest, content = database.execute(
        "SELECT files.digest, content FROM files JOIN runs ON file = files.digest WHERE id = ?", (run.id,)
    ).fetchone()
    whole = zlib.decompress(content)
    if hashlib.sha256(whole).hexdigest() != digest:
        raise ValueError(f"the file of run {run.id} has changed")
    return whole


def with_raw_times(database: sqlite3.Connection, run: Run) -> Run:
    """The run as its file has it."""
    for whole in parse_runs(file_of(database, run), run.name):
        if whole.digest == run.digest:
            return dataclasses.replace(run, rows=whole.rows)
    raise ValueError(f"the file of run {run.id} does not hold it")


def remove(database: sqlite3.Connection, run: Run) -> None:
    """Forgets a run, and its file with the last run that came in it."""
    database.execute("DELETE FROM runs WHERE id = ?", (run.id,))
    database.execute("DELETE FROM files WHERE digest NOT IN (SELECT file FROM runs)")


def _check(database: sqlite3.Connection, path: Path, write: bool) -> None:
    """Makes the tables in an empty file; raises BadInput for a file that is not ours, or not of this version."""
    whose, version, tables = (
        database.execute(question).fetchone()[0]
        for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if write and not tables and not whose and not version:
        for statement in _SCHEMA:
            database.execute(statement)
    elif whose != _OURS:
        raise BadInput(f"{path}: not a database of fer-bench history; --db names another")
    elif version != VERSION:
        raise BadInput(
            f"{path}: history of version {version}, this program keeps {VERSION}; "
            "use the program that made it, or add the result files to another --db"
        )
