from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_runs_are_tabled_and_drawn_side_by_side(
    checkpoint: Path, tmp_path: Path, in_process: Callable[..., Any]
) -> None:
    whole = checkpoint.parent
    lines = (whole / "log.jsonl").read_text().splitlines()
    begun = tmp_path / "begun.jsonl"
    begun.write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])  # cut off while the third was written
    written, drawn = tmp_path / "curves.md", tmp_path / "curves.svg"
    done = in_process("fer-bench", "curve", whole, begun, "--markdown", written, "--plot", drawn)
    assert done.returncode == 0, done.stderr
    first, second = (line.strip("| ").split(" | ") for line in written.read_text().splitlines()[2:])
    last, best = json.loads(lines[-1]), max(map(json.loads, lines), key=lambda row: row["accuracy"])
    assert first[:2] == [whole.name, "4 of 4"]
    assert first[3:6] == [f"{last['accuracy']:.2%}", f"{best['accuracy']:.2%}", str(best["epoch"])]
    assert second[:2] == ["begun", "2 of 4"]
    assert "4 of 4" in done.stdout
    picture = drawn.read_text()
    assert "begun" in picture
    assert "accuracy, averaged weights" in picture


def test_odd_names_stay_as_they_are(checkpoint: Path, tmp_path: Path, in_process: Callable[..., Any]) -> None:
    runs = [tmp_path / name for name in ("_old", "small[taught]", "a|b", "cost$")]
    for run in runs:
        run.mkdir()
        (run / "log.jsonl").write_text((checkpoint.parent / "log.jsonl").read_text())
    written, drawn = tmp_path / "out.md", tmp_path / "out.svg"
    done = in_process("fer-bench", "curve", *runs, "--markdown", written, "--plot", drawn)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small[taught]" in done.stdout
    assert "| a\\|b |" in written.read_text()
    assert all(name in drawn.read_text() for name in ("_old", "small[taught]", "a|b", "cost$"))


def test_runs_of_one_name_are_told_apart(checkpoint: Path, tmp_path: Path, in_process: Callable[..., Any]) -> None:
    copies = [tmp_path / part / "same" for part in "ab"]
    for copy in copies:
        copy.mkdir(parents=True)
        (copy / "log.jsonl").write_text((checkpoint.parent / "log.jsonl").read_text())
    done = in_process("fer-bench", "curve", *copies, "--markdown", tmp_path / "out.md")
    assert done.returncode == 0, done.stderr
    assert all(f"| {copy} |" in (tmp_path / "out.md").read_text() for copy in copies)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file; give a folder that fer-train --out made"),
        ("", "no epoch has ended yet"),
        ("what is this\n", "not a log of fer-train (JSONDecodeError"),
        ('{"epoch": 1}\n', "not a log of fer-train (KeyError: 'epochs'"),
        ("[1]\n", "not a log of fer-train (TypeError"),
        ('{"epoch": NaN}\n', "not a log of fer-train (ValueError: nan is no figure"),
        ('{"epoch": 1' + "0" * 400 + "}\n", "not a log of fer-train (OverflowError"),
    ],
)
def test_what_is_no_log_is_refused_in_a_line(
    content: str | None, complaint: str, tmp_path: Path, in_process: Callable[..., Any]
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    done = in_process("fer-bench", "curve", tmp_path, "--plot", tmp_path / "plot.svg")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "plot.svg").exists()
