"""Results over time: kept once, given back as they were, compared without claiming more than they show."""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_bench.cli import main
from fer_bench.history import store, tables
from fer_bench.history.compare import FASTER, NONE_SHOWN, SLOWER, between, compare
from fer_bench.history.figures import FIGURES
from fer_bench.history.plot import plot
from fer_bench.history.runs import Run, only, parse_runs, runs_of
from fer_bench.history.text import plain
from fer_bench.merge import merge
from fer_runtimes.errors import BadInput

Results = dict[str, Any]


@pytest.fixture
def results(measured: Results) -> Results:
    """The same, as a quiet machine would have measured it; to be altered."""
    quiet = copy.deepcopy(measured)
    quiet["environment"] |= {"busy_share": 0.0, "host": "desk"}
    quiet["environment"]["after"]["throttled"] = False
    return quiet


def slowed(results: Results, factor: float, *places: int, **environment: str) -> Results:
    """The run again, the rows at these places that much slower, in every figure that says so."""
    other = copy.deepcopy(results)
    other["environment"] |= environment
    for i in places:
        row = other["results"][i]
        row["raw_ns"] = [[round(taken * factor) for taken in times] for times in row["raw_ns"]]
        for key, value in row["latency_ms"].items():
            row["latency_ms"][key] = np.multiply(value, factor).tolist() if value and key != "count" else value
    row = other["results"][1]
    speed = {0: factor, 1: 1 / factor}
    for key in ("value", "low", "high"):
        for i in places:
            row["ratio"][key] *= speed[i]
    return other


def spread(results: Results, share: float) -> Results:
    """The run with rounds that scatter by about that share, and not by whatever this machine did just now."""
    random, other = np.random.default_rng(7), copy.deepcopy(results)
    drift = random.lognormal(0, share, 24)
    for row, median in zip(other["results"], (20e6, 2e6), strict=False):
        rounds = [(median * slow * random.lognormal(0, share / 2, 40)).astype(int) for slow in drift]
        row["raw_ns"] = [taken.tolist() for taken in rounds]
        p50 = median / 1e6
        row["latency_ms"] |= {
            "p50": p50,
            "p50_interval": [0.98 * p50, 1.02 * p50],
            "p90": 1.2 * p50,
            "p90_bound": 1.3 * p50,
        }
        row["latency_ms"] |= {"p99": None, "p99_bound": None}
    other["results"][1]["ratio"] |= {"value": 10.0, "low": 9.9, "high": 10.1}
    return other


def run_of(results: Results, name: str = "out.json") -> Run:
    return runs_of(results, name)[0]


def written(path: Path, results: Results, **how: Any) -> Path:
    path.write_text(json.dumps(results, **how))
    return path


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs fer-bench history, as its command does, on a database of the test's own."""

    def run(*arguments: object, db: Path | None = None) -> Done:
        monkeypatch.setenv("FER_HISTORY", str(db or tmp_path / "h.sqlite3"))
        monkeypatch.setattr(sys, "argv", ["fer-bench", "history", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Done(int(left.value.code or 0), *capsys.readouterr())

    return run


def kept(path: Path) -> list[Run]:
    with store.opened(path) as database:
        return store.kept_runs(database)


def keep(path: Path, *contents: Results) -> list[tuple[int, bool]]:
    with store.opened(path, write=True) as database:
        files = [json.dumps(content).encode() for content in contents]
        return [done for file in files for done in store.add(database, parse_runs(file, "out.json"), file)]


def test_a_result_says_when_it_was_made(measured: Results) -> None:
    run = run_of(measured)
    assert run.made is not None
    assert run.made.utcoffset() is not None
    assert measured["made"].endswith("+00:00")


def test_a_file_is_kept_once_and_comes_back_byte_for_byte(tmp_path: Path, cli: Cli, results: Results) -> None:
    file = written(tmp_path / "out.json", results, indent=3)
    done = cli("add", file)
    assert (done.returncode, done.stdout.startswith("added: run 1, desk, ")) == (0, True), done.stderr
    assert cli("add", file).stdout.startswith("already there: run 1")
    assert cli("add", written(tmp_path / "again.json", results)).stdout.startswith("already there: run 1")
    assert len(kept(tmp_path / "h.sqlite3")) == 1
    assert cli("export", 1, "--json", tmp_path / "back.json").returncode == 0
    assert (tmp_path / "back.json").read_bytes() == file.read_bytes()
    assert cli("remove", 1).returncode == 0
    assert kept(tmp_path / "h.sqlite3") == []
    with sqlite3.connect(tmp_path / "h.sqlite3") as database:
        assert [database.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("files", "rows")] == [
            (0,),
            (0,),
        ]
    assert cli("add", file, "--machine", "ci").stdout.startswith("added: run 2, ci, ")  # an id is never given twice
    both = written(tmp_path / "both.json", merge([(None, results), ("board", results)]))
    assert "holds several machines" in cli("add", both, "--machine", "ci").stderr


def test_a_merged_file_gives_a_run_a_machine_and_none_twice(tmp_path: Path, results: Results) -> None:
    board = slowed(results, 3, 0, 1, host="nano") | {"made": "2026-01-02T03:04:05+00:00"}
    both = merge([(None, results), ("board", board)])
    db = tmp_path / "h.sqlite3"
    assert keep(db, board, both) == [(1, True), (2, True), (1, False)]
    assert [(run.id, run.machine, len(run.rows)) for run in kept(db)] == [(1, "nano", 3), (2, "desk", 3)]
    assert kept(db)[0].date == "2026-01-02 03:04"
    with store.opened(db) as database:
        desk = store.with_raw_times(database, store.chosen(kept(db), "2"))
        assert json.loads(store.file_of(database, desk)) == both
    assert desk.rows[1]["raw_ns"] == results["results"][1]["raw_ns"]
    assert desk.digest == run_of(results).digest
    without_times = [{key: value for key, value in row.items() if key != "raw_ns"} for row in desk.rows]
    assert kept(db)[1].rows == without_times


def test_an_old_file_without_a_date_is_of_unknown_date_and_stands_first(tmp_path: Path, results: Results) -> None:
    old = slowed(results, 1.5, 1)
    del old["made"]
    db = tmp_path / "h.sqlite3"
    keep(db, results, old)
    assert [(run.id, run.date == "unknown") for run in kept(db)] == [(2, True), (1, False)]
    assert store.chosen(kept(db), "last").id == 1
    assert store.chosen(kept(db), "last~1").id == 2
    with pytest.raises(BadInput, match="last~2: there are only 2 runs"):
        store.chosen(kept(db), "last~2")


def test_the_list_chooses_and_says_the_fastest_row(tmp_path: Path, cli: Cli, results: Results) -> None:
    nothing = copy.deepcopy(results["results"][1]) | {"runtime": "null", "latency_ms": {"p50": 1e-4}}
    results["results"].append(nothing)
    db, nano = tmp_path / "h.sqlite3", slowed(results, 2, 0, 1, host="nano", commit="0123456789ab")
    keep(db, results, nano)
    (run,) = json.loads(cli("list", "--json", "--machine", "na*").stdout)
    row = nano["results"][1]
    assert (run["id"], run["machine"], run["commit"], run["rows"]) == (2, "nano", "0123456789ab", 4)
    assert (run["fastest"]["runtime"], run["p50_ms"]) == ("onnxruntime", row["latency_ms"]["p50"])
    assert (run["accuracy"], run["data"]["sha256"]) == (row["accuracy"], results["data"]["sha256"])
    (run,) = json.loads(cli("list", "--json", "--machine", "desk", "--runtime", "pytorch").stdout)
    assert (run["fastest"]["runtime"], run["rows"]) == ("pytorch", 1)
    assert json.loads(cli("list", "--json", "--bundle", "no-such-*").stdout) == []
    assert re.search(r"│ nano +│ 0123456789ab +│", cli("list").stdout)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("factor", "places", "verdict"),
    [
        (1.3, [1], SLOWER),
        (1 / 1.3, [1], FASTER),
        (1.0, [], NONE_SHOWN),
        (1.02, [1], NONE_SHOWN),  # less than two runs of one build may differ by
        (1 / 1.02, [1], NONE_SHOWN),
        (1.3, [0, 1], NONE_SHOWN),  # the machine was slower: the speed-up stays
    ],
)
def test_the_verdict_is_that_of_the_speed_ups(
    results: Results, raw: bool, factor: float, places: list[int], verdict: str
) -> None:
    before = spread(results, 0.02)
    after = slowed(before, factor, *places)
    for row in [] if raw else before["results"] + after["results"]:
        row["raw_ns"] = None
    rows = {row.a["runtime"]: row for row in compare(run_of(before), run_of(after)).rows}
    found = rows["onnxruntime"]
    assert (found.verdict, found.grounds) == (verdict, "by the speed-ups")
    assert found.times["p50_ms"].value == pytest.approx(1 / (factor if 1 in places else 1), rel=1e-6)
    assert (found.times["p50_ms"].low is not None) == raw
    assert found.times.keys() == {"p50_ms", "p90_ms"}  # p99 is not supported
    assert rows["pytorch"].relative is None
    if not raw:
        assert (rows["pytorch"].verdict, "raw times" in rows["pytorch"].grounds) == (None, True)
    assert (rows["openvino"].verdict, rows["openvino"].grounds) == (None, "not timed in both")


def test_speed_ups_over_another_reference_are_not_trusted(results: Results) -> None:
    before = spread(results, 0.02)
    for change, why in [
        ({"bundle_sha256": "0" * 64}, "another model file"),
        ({"threads": 2}, "number of threads"),
    ]:
        after = slowed(before, 1.3, 0)
        after["results"][0] |= change
        row = compare(run_of(before), run_of(after)).rows[1]
        assert row.relative is None
        assert why in (row.why_not or "")
        assert (row.verdict, "not taken in turns" in row.grounds) == (NONE_SHOWN, True)
    after = slowed(before, 1.3, 0)
    after["environment"]["versions"]["torch"] = "0.1"
    assert compare(run_of(before), run_of(after)).rows[1].why_not == "the reference ran on another version of torch"


@pytest.mark.parametrize(
    ("change", "why"), [({"busy_share": 0.4}, "took 40%"), ({"after": {"throttled": True}}, "throttled")]
)
def test_no_verdict_on_an_unsteady_machine(results: Results, change: dict[str, Any], why: str) -> None:
    before = spread(results, 0.02)
    after = slowed(before, 1.3, 1)
    after["environment"] |= change
    row = compare(run_of(before), run_of(after)).rows[1]
    assert row.verdict is None
    assert why in row.grounds
    assert row.relative is not None  # shown all the same


def test_other_machines_are_compared_and_named_and_other_data_refused(results: Results) -> None:
    other = slowed(results, 4, 0, 1, host="nano", cpu="ARMv8")
    comparison = compare(run_of(results), run_of(other, "other.json"))
    assert "nano: ARMv8" in (comparison.elsewhere or "")
    assert any("of different machines" in line for line in tables.remarks(comparison))
    other["data"]["sha256"] = "f" * 64
    with pytest.raises(
        BadInput, match=r"results of different data: out\.json of drawn-faces .*other\.json of drawn.*ffffffffffff"
    ):
        compare(run_of(results), run_of(other, "other.json"))
    other["data"] = None
    for row in other["results"]:
        row["accuracy"] = None
    assert compare(run_of(results), run_of(other)).rows


def test_rows_that_one_run_lacks_are_named_and_same_names_told_apart(results: Results) -> None:
    other = copy.deepcopy(results)
    twin = copy.deepcopy(other["results"][1]) | {"bundle_sha256": "1" * 64}
    other["results"] = [other["results"][1], twin]
    comparison = compare(run_of(results), run_of(other))
    assert len(comparison.rows) == 1
    assert comparison.rows[0].b["bundle_sha256"] == results["results"][1]["bundle_sha256"]
    assert any(name.endswith("1" * 12) for name in comparison.only_b)
    assert any(name.startswith("pytorch") for name in comparison.only_a)
    other["results"] = [results["results"][1] | {"runtime": "tvm"}]
    with pytest.raises(BadInput, match="no runtime and bundle in common"):
        compare(run_of(results), run_of(other))


def test_the_table_has_both_figures_and_the_difference(cli: Cli, tmp_path: Path, results: Results) -> None:
    before = spread(results, 0.02)
    after = slowed(before, 1.3, 1)
    before["results"][1]["accuracy"], after["results"][1]["accuracy"] = 0.5, 0.475
    shown = cli("compare", written(tmp_path / "a.json", before), written(tmp_path / "b.json", after))
    assert shown.returncode == 0, shown.stderr
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines() if "│" in line]
    place = next(i for i, cells in enumerate(lines) if cells[0].startswith("onnxruntime"))
    figures = {cells[1]: cells[2:] for cells in lines[place:] if not cells[0] or cells is lines[place]}
    assert figures["accuracy %"] == ["50.00", "47.50", "-2.50"]
    assert figures["p50 ms"][:2] == ["2.000", "2.600"]
    assert figures["p50 ms"][2].startswith("+0.600, 0.769x as fast [")
    assert figures["model MB"][2] == "+0.00"
    assert "slower (by the speed-ups)" in shown.stdout
    assert "not taken in turns" in " ".join(shown.stdout.split())


def test_the_interval_between_two_runs_holds_the_truth_about_as_often_as_it_says() -> None:
    """Rounds drift by 10 %, in each run by themselves: an interval from single queries would be far too narrow."""
    random, trials = np.random.default_rng(3), 30
    held = naive = 0

    def taken(median: float) -> list[np.ndarray]:
        return [median * slow * random.lognormal(0, 0.05, 30) for slow in random.lognormal(0, 0.1, 12)]

    def holds(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
        (change,) = between(a, b, lambda values: np.array([np.median(values)]))
        return (change.low or 0) <= 1.2 <= (change.high or 0)

    for i in range(trials):
        a, b = taken(1.2), taken(1.0)
        held += holds(a, b)
        if i < 6:
            naive += holds(*([*np.concatenate(rounds).reshape(-1, 1)] for rounds in (a, b)))
    assert held / trials >= 0.77  # 92 in 100 with 12 rounds, less three standard errors
    assert naive <= 4
    assert between(taken(1.2)[:5], taken(1.0), lambda values: np.array([np.median(values)]))[0].low is None


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_plotted_and_a_line_joins_what_is_alike(results: Results, name: str) -> None:
    before, after = spread(results, 0.02), slowed(spread(results, 0.02), 1.3, 1, commit="0123456789ab")
    after["made"] = "2030-01-02T03:04:05+00:00"
    for one in (before, after):
        one["results"][1]["latency_ms"] |= {"p99": 3.0, "p99_bound": 4.0}
    runs = [run_of(before), run_of(after), run_of(slowed(after, 2, 0, 1, host="nano"))]
    (axes,) = plot(only(runs, runtime="onnx*"), name).axes
    lines = {container.get_label(): container[0] for container in axes.containers}
    assert lines.keys() == {"desk", "nano"}
    figure = FIGURES[name]
    assert lines["desk"].get_ydata().tolist() == [figure.of(run.rows[1]) for run in runs[:2]]
    assert [label.get_text() for label in axes.get_xticklabels()][1:] == ["0123456\n2030-01-02"]
    bounds = figure.bounds(runs[0].rows[1])
    bars = axes.containers[0][2][0].get_segments()
    assert [bars[0][0][1], bars[0][1][1]] == pytest.approx(bounds or [figure.of(runs[0].rows[1])] * 2)


def test_runs_of_a_commit_on_a_day_stand_side_by_side_and_those_of_machines_above_each_other(results: Results) -> None:
    runs = [run_of(slowed(results, factor, 1, host=host)) for factor in (1, 1.1, 1.2) for host in ("desk", "nano")]
    (axes,) = plot(only(runs, runtime="onnx*"), "p50_ms").axes
    assert [container[0].get_xdata().tolist() for container in axes.containers] == [[0, 1, 2], [0, 1, 2]]
    assert [label.get_text().split(" ")[-1] for label in axes.get_xticklabels()][1:] == ["#2", "#3"]


def test_a_plot_is_a_picture_and_nothing_is_written_without_one(cli: Cli, tmp_path: Path, results: Results) -> None:
    keep(tmp_path / "h.sqlite3", results)
    assert cli("plot", "accuracy", "--out", tmp_path / "a.png").returncode == 0
    assert Image.open(tmp_path / "a.png").size[0] > 800
    for words, complaint in [
        (["colour", "--out", tmp_path / "b.png"], "figure 'colour' is unknown; known are accuracy"),
        (["accuracy", "--out", tmp_path / "b.pdf"], "plots are written as .png or .svg"),
        (["accuracy", "--out", tmp_path / "b.png", "--machine", "nano"], "no run has accuracy"),
    ]:
        done = cli("plot", *words)
        assert (done.returncode, complaint in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "h.sqlite3"]


def test_what_is_no_history_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, foreign, newer = tmp_path / "text", tmp_path / "foreign", tmp_path / "newer"
    text.write_text("results, results, results\n" * 100)
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE runs (id)")
    keep(newer, results)
    with sqlite3.connect(newer) as database:
        database.execute(f"PRAGMA user_version = {store.VERSION + 1}")
    before = {path: path.read_bytes() for path in (text, foreign, newer)}
    file = written(tmp_path / "out.json", results)
    for db, complaint in [
        (text, "not a database of fer-bench history"),
        (foreign, "not a database of fer-bench history"),
        (newer, f"history of version {store.VERSION + 1}, this program keeps {store.VERSION}"),
        (tmp_path, "a folder; --db names the file in it"),
        (tmp_path / "none", "no history yet"),
    ]:
        for words in [["list"]] if db.name == "none" else [["list"], ["add", file]]:
            done = cli(*words, db=db)
            assert (done.returncode, complaint in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert before == {path: path.read_bytes() for path in before}
    assert not (tmp_path / "none").exists()
    locked = tmp_path / "locked"
    keep(locked, results)
    monkeypatch.setattr(store, "TIMEOUT", 0.1)
    with sqlite3.connect(locked, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        for write in (False, True):
            with pytest.raises(BadInput, match="locked by another program"), store.opened(locked, write):
                pass


def test_a_damaged_history_is_said_to_be(tmp_path: Path, results: Results) -> None:
    db = tmp_path / "h.sqlite3"
    keep(db, results)
    whole = db.read_bytes()
    db.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="or a damaged one"):
        kept(db)
    db.write_bytes(whole)
    for content in (b"\0", zlib.compress(b"{}")):
        with sqlite3.connect(db) as database:
            database.execute("UPDATE files SET content = ?", (content,))
        with pytest.raises(BadInput, match="damaged"), store.opened(db) as opened:
            store.file_of(opened, kept(db)[0])


def test_one_bad_file_of_several_and_none_is_kept(cli: Cli, tmp_path: Path, results: Results) -> None:
    good = written(tmp_path / "good.json", results)
    row = results["results"][1]
    for name, bad in {
        "cut": json.dumps(results)[:-20],
        "format": json.dumps(results | {"format": 2}),
        "rows": json.dumps(results | {"results": [1]}),
        "p50": json.dumps(results | {"results": [row | {"latency_ms": {"p50": "fast"}}]}),
        "zero": json.dumps(results | {"results": [row | {"latency_ms": {"p50": 0}}]}),
        "nan": json.dumps(results | {"results": [row | {"accuracy": float("nan")}]}),
        "huge": json.dumps(results | {"results": [row | {"accuracy": 10**400}]}),
        "made": json.dumps(results | {"made": "yesterday"}),
        "data": json.dumps(results | {"data": {"name": "x"}}),
    }.items():
        with pytest.raises(BadInput, match=f"{name}.json: "):
            parse_runs(bad.encode(), f"{name}.json")
        (tmp_path / "bad.json").write_text(bad)
    done = cli("add", good, tmp_path / "bad.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "h.sqlite3").exists()


def test_two_processes_add_at_once(tmp_path: Path, results: Results) -> None:
    """Both begin on no database; each makes it or waits for the other."""
    files = [written(tmp_path / f"{i}.json", slowed(results, 1 + i / 10, 1)) for i in range(8)]
    code = "from fer_bench.cli import main; main()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, "history", "add", *map(str, part), "--db", str(tmp_path / "h.sqlite3")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in (files[:4], files[3:])
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert sorted(run.id or 0 for run in kept(tmp_path / "h.sqlite3")) == list(range(1, 9))


def test_who_finds_the_database_locked_waits(tmp_path: Path, results: Results) -> None:
    db = tmp_path / "h.sqlite3"
    keep(db, results)
    begun = threading.Barrier(3)

    def add(which: int) -> None:
        begun.wait(timeout=60)
        for i in range(12):
            keep(db, results | {"made": f"2026-01-{which:02}T00:00:{i:02}+00:00"})

    with sqlite3.connect(db, isolation_level=None) as other, ThreadPoolExecutor() as threads:
        other.execute("BEGIN EXCLUSIVE")
        done = [threads.submit(add, which) for which in (1, 2)]
        begun.wait(timeout=60)
        time.sleep(0.3)
        other.execute("COMMIT")
        for one in done:
            one.result(timeout=60)
    assert len(kept(db)) == 25


def test_text_of_strangers_is_data(cli: Cli, tmp_path: Path, results: Results) -> None:
    evil = "x'); DROP TABLE runs; --\x1b[2J[red]\u202e\ud800$x$"
    row = results["results"][1]
    row |= {"runtime": evil, "bundle": evil, "device": evil, "precision": evil}
    row["ratio"]["to"] = evil
    results["results"].append(copy.deepcopy(row) | {"bundle": None})
    results["environment"] |= {"host": evil, "commit": evil, "cpu": evil}
    results["data"]["name"] = evil
    file = written(tmp_path / "evil.json", results)
    for words in (["add", file], ["list"], ["list", "--json"], ["compare", 1, file]):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert "x'); DROP" in done.stdout
        assert not {"\x1b", "\u202e", "\ud800"} & set(done.stdout)
        if words[0] != "add":
            assert "[red]" in done.stdout.replace("\n", "")
    assert len(kept(tmp_path / "h.sqlite3")) == 1
    assert cli("plot", "p50_ms", "--out", tmp_path / "p.svg").returncode == 0
    drawn = re.sub("<!--.*?-->", "", (tmp_path / "p.svg").read_text(), flags=re.DOTALL)
    assert "$x$" in drawn  # no formula
    assert plain("a\tb\x1b[31m\u200f") == "a b?[31m?"


@pytest.mark.parametrize("name", ["add", "list", "compare", "plot", "remove", "export"])
def test_every_help_has_an_example(cli: Cli, name: str) -> None:
    shown = cli(name, "--help")
    assert shown.returncode == 0
    assert f"fer-bench history {name}" in shown.stdout
    assert "Examples" in shown.stdout
