from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Command, as_csv
from PIL import Image

from fer_bench.bench import Job, bench
from fer_bench.cli import main
from fer_bench.gate import reports
from fer_bench.gate.answers import Answers, Prepared, ask_apart
from fer_bench.gate.baseline import Baseline, Key, Speed, describe, read_baseline, write_baseline
from fer_bench.gate.checks import CHECKS, FAILED, SKIPPED, Answered, Check, failures, judge, rows_that_did_not_run
from fer_bench.gate.figures import Z_95, Bounds, calibration_error, images_needed, loss, loss_bound, loss_of, sign_test
from fer_bench.gate.latency import Latencies, latencies_of, slowdown, times_needed
from fer_bench.gate.make import answered, baseline_of
from fer_bench.gate.preprocessing import departure
from fer_runtimes.bundle import Reference, read_bundle, write_manifest
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.images import prepare
from fer_train.checkpoint import load_checkpoint, save_checkpoint
from seeded_faults.builds import CELLS, ONE, Build, asked, build, clean_runs, forged
from seeded_faults.faults import FAULTS, WRONG_RESIZES, Fault, WronglyResized


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == FAILED}


@pytest.fixture(scope="module")
def clean(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The tests' net, shown 7/8 of a face, so that resizing is part of what it answers."""
    folder = tmp_path_factory.mktemp("gate")
    loaded = load_checkpoint(checkpoint)
    path = folder / "cropped.pt"
    save_checkpoint(path, replace(loaded, input=loaded.input | {"crop": 0.875}))
    return build(path, folder / "build", drawn_faces(700, seed=30), drawn_faces(160, seed=0))


# --- seeded faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_seeded_fault_fails_by_the_check_that_is_there_for_it(clean: Build, tmp_path: Path, fault: Fault) -> None:
    assert fault.check not in failed(clean.judge(clean.rows[fault.cell]))
    checks = clean.judge(clean.ask(fault.cell, forged(clean, fault, fault.strengths[-1], tmp_path)))
    assert fault.check in failed(checks)
    assert "own reference" not in failed(checks)  # so well does it vouch for itself


@pytest.mark.parametrize("kind", WRONG_RESIZES.values(), ids=WRONG_RESIZES)
def test_a_resize_of_the_wrong_kind_fails_preprocessing(clean: Build, kind: Image.Resampling) -> None:
    wrong = WronglyResized(clean.faces.images, kind)
    checks = clean.judge(asked(clean.bundles["onnx fp32"], "onnxruntime", wrong), prepared=wrong)
    assert {"preprocessing", "logits"} <= failed(checks)
    assert "own reference" not in failed(checks)


@pytest.mark.parametrize(("size", "crop"), [(48, 1.0), (48, 0.875), (64, 1.0), (36, 0.75), (24, 1.0), (224, 0.9)])
def test_exact_resizing_agrees_with_what_every_runtime_uses(size: int, crop: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 48, 48), dtype=np.uint8)
    assert departure(noise, prepare(noise, size, crop), crop) <= Bounds().grey_levels


# --- no false alarm --------------------------------------------------------------------------


def test_50_clean_runs_pass(clean: Build) -> None:
    alarms = list(enumerate(clean_runs(clean, 50)))
    assert len(alarms) == 50
    assert [(run, checks) for run, checks in alarms if checks] == []


# --- each check ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worse", "better", "images", "bound"),
    [
        (20, 16, 3589, 0.0040),
        (30, 10, 3589, 0.0087),
        (0, 0, 1400, 0.00193),
        (1, 0, 1400, 0.00320),
        (0, 2, 100, 0.00687),
    ],
)
def test_the_bound_of_the_loss_is_the_largest_that_is_not_rejected(
    worse: int, better: int, images: int, bound: float
) -> None:
    """By definition, over a grid: of the shares that may have turned right, the likeliest where that loss is true."""
    found = loss_bound(worse, better, images)
    assert found == pytest.approx(bound, rel=0.02)
    right = np.linspace(0, 0.2, 400_001)[1:]
    left = np.clip(1 - 2 * right - found, 1e-9, None)
    same = images - worse - better
    likely = right[np.argmax(worse * np.log(right + found) + better * np.log(right) + same * np.log(left))]
    deviation = math.sqrt(images * (2 * likely + found - found**2))
    assert (worse - better - images * found) / deviation == pytest.approx(-Z_95, abs=0.02)


def test_counts_are_taken_from_paired_answers() -> None:
    was, now = np.ones(3589, dtype=bool), np.ones(3589, dtype=bool)
    now[:20] = False
    was[20:36] = False
    assert loss(was, now) == loss_of(20, 16, 3589)
    assert (loss_of(20, 16, 3589).worse, loss_of(20, 16, 3589).better) == (20, 16)


@pytest.mark.parametrize("images", [700, 1400, 3589])
@pytest.mark.parametrize("changing", [0.0005, 0.002, 0.02])
def test_the_bound_holds_the_truth_as_often_as_it_says_at_small_counts_too(images: int, changing: float) -> None:
    random, lost = np.random.default_rng(0), 0.003
    counts = random.multinomial(images, [changing + lost, changing, 1 - 2 * changing - lost], 4000)[:, :2]
    bounds = {pair: loss_bound(*pair, images) for pair in {(int(b), int(c)) for b, c in counts}}
    held = np.mean([bounds[int(b), int(c)] >= lost for b, c in counts])
    assert held > 0.92  # the normal approximation: 0.88 to 0.91 where few change


def test_the_sign_test_is_exact() -> None:
    assert sign_test(5, 0) == 1 / 32
    assert sign_test(0, 0) == 1
    assert sign_test(14, 6) == pytest.approx(0.0577, abs=1e-4)
    assert sign_test(700, 700) == pytest.approx(0.5107, abs=1e-3)


def test_a_true_loss_of_one_and_a_half_points_always_fails_and_no_loss_hardly_ever() -> None:
    """As many changed verdicts as a float16 engine makes, and as two trainings of one net make."""
    random, images = np.random.default_rng(0), 3589
    for changing in (0.001, 0.08):
        verdicts = {}
        for lost in (0.0, 0.015):
            rates = [changing + lost, changing, 1 - 2 * changing - lost]
            counts = [(int(b), int(c)) for b, c in random.multinomial(images, rates, 500)[:, :2]]
            verdicts[lost] = [loss_of(*pair, images).within(Bounds().accuracy_loss) for pair in counts]
        assert verdicts[0.0].count(False) < 0.07 * 500
        assert True not in verdicts[0.015]
        if changing == 0.001:
            assert verdicts[0.0].count(True) > 0.95 * 500
            assert verdicts[0.015].count(False) == 500


def test_where_neither_is_shown_the_gate_does_not_fail_and_says_how_many_images_would_tell(clean: Build) -> None:
    """Two of 700 answers lost: by chance in one of four such runs, and too few images to exclude 0.3 points."""
    row, labels = clean.rows["onnx fp32"], clean.faces.labels
    right = np.flatnonzero(clean.baseline.logits.argmax(1) == labels)
    for lost, verdict in ((0, SKIPPED), (2, SKIPPED), (5, FAILED)):
        logits = logits_of(row).copy()
        logits[right[:lost]] = np.roll(logits[right[:lost]], 1, axis=1)
        check = clean.judge(with_logits(row, logits))["accuracy"]
        assert check.verdict == verdict
        assert ("cannot tell" in check.words) == (verdict == SKIPPED)
        told = re.search(r"([\d,]+) images would", check.words)
        if told:
            more = int(told[1].replace(",", ""))
            assert loss_of(round(lost * more / 700), 0, more).within(0.003) is not None
            assert more > 700
    assert images_needed(loss_of(0, 0, 700), 0.003) == 931


def test_calibration_error_by_hand() -> None:
    # confidence 0.75 in one bin, of which half is right: |0.75 - 0.5|
    logits = np.tile(np.log(np.array([0.75, *[0.25 / 6] * 6])), (4, 1))
    assert calibration_error(logits, np.array([0, 0, 1, 2])) == pytest.approx(0.25)
    assert calibration_error(np.full((2, 7), np.nan), np.array([0, 1])) == 1


def with_logits(row: Answered, logits: np.ndarray) -> Answered:
    assert isinstance(row.answers, Answers)
    return replace(row, answers=replace(row.answers, logits=logits.astype(np.float32)))


def logits_of(row: Answered) -> np.ndarray:
    assert isinstance(row.answers, Answers)
    return row.answers.logits


def test_doubt_that_changes_no_label_fails_calibration_and_not_accuracy(clean: Build) -> None:
    row = clean.rows["onnx fp32"]
    found = failed(clean.judge(with_logits(row, logits_of(row) * 0.25)))
    assert "calibration" in found
    assert found.isdisjoint({"accuracy", "accuracy since baseline", "class flips", "labels", "finite"})


def test_a_small_class_that_loses_fails_though_accuracy_does_not(clean: Build) -> None:
    """Wrong answers elsewhere turn right, so that in sum nothing is lost."""
    labels = np.arange(7000) % 7
    faces = replace(drawn_faces(7, seed=31), images=clean.faces.images[labels], labels=labels)
    few = np.flatnonzero((labels != 1) | (np.arange(7000) < 350))  # 50 of disgust
    labels, truth = faces.labels[few], np.eye(7)[faces.labels[few]] * 9
    others = np.flatnonzero(labels != 1)[:3]
    truth[others] = np.roll(truth[others], 1, axis=1)
    small = replace(faces, images=faces.images[few], labels=labels)
    now = np.eye(7)[labels] * 9
    lost = np.flatnonzero(labels == 1)[:3]
    now[lost] = np.roll(now[lost], 1, axis=1)
    row = with_logits(clean.rows["onnx fp32"], truth)
    baseline = baseline_of(
        [row], small, Reference(small.images, truth, truth.astype(np.float32), np.full(len(few), "face"))
    )
    prepared = Prepared(small.images)
    changed = {"faces": small, "prepared": prepared, "baseline": baseline}
    assert failed(clean.judge(row, **changed)) == set()
    checks = clean.judge(with_logits(row, now), **changed)
    assert checks["class flips"].verdict == FAILED
    assert "disgust: 3 of 1" in checks["class flips"].words
    assert failed(checks).isdisjoint({"accuracy", "accuracy since baseline"})


def test_a_changed_label_is_forgiven_by_its_margin_and_listed(clean: Build) -> None:
    row, truth = clean.rows["openvino fp16"], clean.baseline.logits
    ordered = np.sort(truth, 1)
    margins = ordered[:, -1] - ordered[:, -2]
    for image, verdict in ((int(margins.argmax()), "failed"), (int(margins.argmin()), "passed")):
        first, second = np.argsort(truth[image])[:-3:-1]
        logits = truth.astype(np.float32)
        logits[image, [first, second]] = logits[image, [second, first]]
        prepared = Prepared(clean.faces.images)
        judged = judge([with_logits(row, logits)], clean.faces, prepared, clean.baseline, Bounds())[0]
        assert [flip.image for flip in judged.flips] == [image]
        assert judged.flips[0].margin == pytest.approx(margins[image])
        assert (margins[image] > 0.05) == (verdict == "failed")
        assert {check.name: check.verdict for check in judged.checks}["labels"] == verdict


def test_the_precision_that_is_read_back_must_be_the_declared_and_the_baselines(clean: Build) -> None:
    def precision(name: str, compute: str, baseline: Baseline = clean.baseline) -> str:
        row = clean.rows[name]
        assert isinstance(row.answers, Answers)
        row = replace(row, answers=replace(row.answers, compute=compute))
        return clean.judge(row, baseline=baseline)["precision"].verdict

    without = replace(clean.baseline, rows=clean.baseline.rows[:1])
    assert precision("onnx fp32", "fp32") == "passed"
    assert precision("onnx fp32", "bf16", without) == "failed"
    assert precision("onnx fp32", "unheard of", without) == "failed"
    assert precision("tensorrt fp16", "fp32", without) == "passed"
    assert precision("tensorrt fp16", "fp16") == "failed"  # the baseline's was computed in float32


def test_a_bundle_cannot_grant_itself_a_wider_bound(clean: Build, tmp_path: Path) -> None:
    bundle = clean.bundles["onnx fp32"]
    path = Path(shutil.copytree(bundle.path, tmp_path / "wide"))
    wide = {"tolerance": {"error_ratio": 1e9, "mean_kl": 1e9, "flip_margin": 1e9}}
    write_manifest(path, replace(bundle.manifest, parity=(bundle.manifest.parity or {}) | wide))
    row = replace(clean.rows["onnx fp32"], bundle=read_bundle(path))
    assert "logits" in failed(clean.judge(with_logits(row, logits_of(row) + 0.01)))


def test_a_net_of_another_checkpoint_is_judged_by_its_accuracy(clean: Build) -> None:
    """Its logits may differ; its right answers may not get fewer."""
    row = clean.rows["onnx fp32"]
    manifest = row.bundle.manifest
    other = replace(
        row, bundle=replace(row.bundle, manifest=replace(manifest, source=manifest.source | {"checkpoint_sha256": "0"}))
    )
    checks = clean.judge(other)
    assert failed(checks) == set()
    assert {name for name, check in checks.items() if check.verdict == SKIPPED} >= {"logits", "labels", "accuracy"}
    rolled = np.roll(logits_of(row), 1, axis=1)
    assert "accuracy since baseline" in failed(clean.judge(with_logits(other, rolled)))


def test_a_runtime_that_has_gone_or_died_fails_the_gate(clean: Build) -> None:
    row = replace(clean.rows["onnx fp32"], answers="runtime onnxruntime died while it answered")
    judged = judge([row], clean.faces, Prepared(clean.faces.images), clean.baseline, Bounds())
    assert [check.name for check in failures(judged)] == ["runs"]
    gone = rows_that_did_not_run(clean.baseline, judged)
    assert len(gone) == len(CELLS) - 1
    assert len(failures(gone)) == len(gone)


def test_a_net_that_computes_more_fails_by_its_work(clean: Build) -> None:
    def judged(macs: int | None) -> Check:
        rows = tuple(replace(row, macs=macs) for row in clean.baseline.rows)
        return clean.judge(clean.rows["onnx fp32"], baseline=replace(clean.baseline, rows=rows))["work"]

    macs, kept = clean.bundles["onnx fp32"].manifest.source["macs"], clean.baseline.row(clean.rows["onnx fp32"].key)
    assert kept is not None
    assert kept.macs == macs
    assert [judged(int(macs / times)).verdict for times in (0.5, 1, 1.24, 1.26)] == ["passed"] * 3 + [FAILED]
    assert judged(None).verdict == SKIPPED


# --- latency ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(clean: Build) -> dict[str, Any]:
    """A result file of two rows, measured here; the machine is written in as quiet, whatever else it did."""
    names = ("onnx fp32", "openvino fp32")
    results = bench([Job(CELLS[name][3], clean.bundles[name]) for name in names], None, ONE, 120, seconds=0)
    for place in (results["environment"], *results["results"]):
        place["busy_share"] = 0.01
    return results


@dataclass(frozen=True)
class Timed:
    """A baseline with latency, and the means to hold a later result file against it."""

    clean: Build
    baseline: Baseline
    digests: dict[Key, str]

    def check(self, results: dict[str, Any], slowdown: float = 1.25) -> Check:
        given = latencies_of(results, self.digests, "results.json")
        changed = {"baseline": self.baseline, "latencies": given, "bounds": Bounds(slowdown=slowdown)}
        return self.clean.judge(self.clean.rows["openvino fp32"], **changed)["latency"]


@pytest.fixture(scope="module")
def timed(clean: Build, measured: dict[str, Any]) -> Timed:
    rows = [clean.rows[name] for name in ("onnx fp32", "openvino fp32")]
    digests = {row.key: row.bundle.digest for row in rows}
    truth = clean.baseline.truth(clean.faces.images, "face")
    before = latencies_of(tidied(measured), digests, "results")
    return Timed(clean, baseline_of(rows, clean.faces, truth, before), digests)


def tidied(results: dict[str, Any], slower: float = 1.0, both: float = 1.0, noise: float = 0.02) -> dict[str, Any]:
    """The file with times of a known ratio: the second row takes twice the first's time, times ``slower``, give or take ``noise`` a round."""
    random, later = np.random.default_rng(0), copy.deepcopy(results)
    for row, factor in zip(later["results"], (1.0, 2 * slower), strict=True):
        row["raw_ns"] = [[int(1e6 * both * factor * random.lognormal(0, noise))] * 10 for _ in range(12)]
    return later


def test_latency_fails_where_a_slowdown_is_shown_passes_where_it_is_excluded_and_else_says_so(
    timed: Timed, measured: dict[str, Any]
) -> None:
    assert timed.baseline.latency_reference == "onnxruntime, onnx fp32"
    assert timed.check(tidied(measured, 1.15)).verdict == "passed"
    assert timed.check(tidied(measured, 1.4)).verdict == FAILED
    assert timed.check(tidied(measured, 1.4), slowdown=1.6).verdict == "passed"
    assert timed.check(tidied(measured, both=10)).verdict == "passed"  # a slower machine is no loss
    for noise, near in ((0.02, 1.25), (0.8, 1.1), (0.8, 1.4)):
        check = timed.check(tidied(measured, near, noise=noise))
        assert check.verdict == SKIPPED
        assert "cannot tell" in check.words
        assert re.search(
            r"(--queries \d+ --processes 1|a baseline of more queries, in more processes,) would", check.words
        )
    # the same lists, each of a process: more queries would leave as many processes as there are
    spread = timed.check({**tidied(measured, 1.1, noise=0.8), "processes": 12})
    assert re.search(r"; (--processes \d+|a baseline of more queries, in more processes,) would", spread.words)


def test_as_many_rounds_as_the_gate_names_do_tell() -> None:
    before, now = Speed(0.5, 0.499, 0.501, 10_000), Speed(0.45, 0.36, 0.56, 100)
    assert slowdown(before, now).high > 1.25
    times = times_needed(before, now, 1.25) or 0
    shrink = math.sqrt(1 / times)
    narrow = Speed(0.45, 0.45 * (0.36 / 0.45) ** shrink, 0.45 * (0.56 / 0.45) ** shrink, 100)
    assert slowdown(before, narrow).high == pytest.approx(1.25, abs=1e-3)
    assert times_needed(Speed(0.5, 0.2, 0.9, 100), now, 1.25) is None  # no number of rounds mends the baseline


def test_the_interval_of_a_slowdown_holds_the_truth_about_as_often_as_it_says() -> None:
    """Both runs drift and are noisy; half the truth is 1.25."""
    random, held = np.random.default_rng(0), 0
    keys = [Key(name, name, "fp32", True) for name in ("onnxruntime", "openvino")]

    def run(slower: float) -> Speed:
        drift = random.lognormal(0, 0.1, 25)
        times = {
            key: [np.full(5, 1e6 * factor * slow * random.lognormal(0, 0.05)).astype(np.int64) for slow in drift]
            for key, factor in zip(keys, (1.0, 2 * slower), strict=True)
        }
        found = Latencies(times, {}).speed(keys[1], keys[0])
        assert found is not None
        return found

    for _ in range(40):
        found = slowdown(run(1.0), run(1.25))
        held += found.low <= 1.25 <= found.high
    assert held >= 34  # 95 % of 40 are 38


def test_latency_is_skipped_where_the_machine_was_busy_and_no_baseline_is_made_there(
    timed: Timed, measured: dict[str, Any]
) -> None:
    for place in ("environment", "row"):
        busy = tidied(measured, 1.4)
        (busy["environment"] if place == "environment" else busy["results"][0])["busy_share"] = 0.31
        check = timed.check(busy)
        assert check.verdict == SKIPPED
        assert "other programs took 31% of the processors" in check.words
    rows, truth = [timed.clean.rows["onnx fp32"]], timed.baseline.truth(timed.clean.faces.images, "face")
    with pytest.raises(CheckFailed, match="took 31% of the processors"):
        baseline_of(rows, timed.clean.faces, truth, latencies_of(busy, timed.digests, "results"))


def test_latency_joins_only_what_was_measured_on_the_same_file_with_its_times(
    timed: Timed, measured: dict[str, Any]
) -> None:
    row = timed.clean.rows["openvino fp32"]
    assert timed.clean.judge(row, baseline=timed.baseline)["latency"].verdict == SKIPPED
    for change, complaint in [
        ({"bundle_sha256": "0" * 64}, "openvino fp32 was measured on a bundle of digest 000000000000"),
        ({"raw_ns": None}, "keeps no raw times"),
        ({"raw_ns": [[1, 2], []]}, "a damaged result file"),
    ]:
        later = copy.deepcopy(measured)
        later["results"][1] |= change
        with pytest.raises(BadInput, match=rf"results.json: .*{complaint}"):
            timed.check(later)
    later = copy.deepcopy(measured)
    del later["results"][0]["latency_ms"]
    with pytest.raises(BadInput, match=r"results.json: a damaged result file"):
        timed.check(later)


def test_real_rounds_give_a_speed_with_an_interval(timed: Timed, measured: dict[str, Any]) -> None:
    found = latencies_of(measured, timed.digests, "results")
    onnx, openvino = timed.digests
    speed = found.speed(openvino, onnx)
    assert speed is not None
    assert 0 < speed.low <= speed.value <= speed.high
    assert speed.queries >= 120


# --- the baseline file, the reports, the command ----------------------------------------------


def test_a_baseline_is_read_as_it_was_written(clean: Build, tmp_path: Path) -> None:
    write_baseline(tmp_path / "b.json", clean.baseline)
    read = read_baseline(tmp_path / "b.json", clean.faces)
    np.testing.assert_array_equal(read.logits, clean.baseline.logits)
    np.testing.assert_array_equal(read.logits_fp32, clean.baseline.logits_fp32)
    for row, kept in zip(read.rows, clean.baseline.rows, strict=True):
        np.testing.assert_array_equal(row.predictions, kept.predictions)
        assert (
            asdict(replace(row, predictions=np.empty(0))).items()
            >= {"accuracy": kept.accuracy, "ece": kept.ece}.items()
        )
        assert (row.key, row.tolerance) == (kept.key, kept.tolerance)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "not a whole baseline"),
        (lambda text: "[]", "not a baseline of fer-bench gate"),
        (lambda text: '{"format": 1, "results": []}', "not a baseline of fer-bench gate"),
        (lambda text: text.replace('"format": 2', '"format": 1'), "baseline format 1, this version reads 2"),
        (lambda text: text.replace('"happy"', '"glad"'), "its classes are"),
        (
            lambda text: text.replace('"accuracy": 0.', '"accuracy": 0.0'),
            "not those that its accuracy was counted from",
        ),
        (lambda text: text.replace('"logits": "', '"logits": "AAAA'), "damaged baseline"),
        (lambda text: text.replace('"ece"', '"error"'), "damaged baseline"),
    ],
)
def test_a_damaged_baseline_is_refused_by_name(
    clean: Build, tmp_path: Path, damage: Callable[[str], str], complaint: str
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, clean.baseline)
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadInput, match=complaint) as refused:
        read_baseline(path, clean.faces)
    assert str(path) in str(refused.value)


def test_a_baseline_of_other_images_or_another_order_is_refused(clean: Build, tmp_path: Path) -> None:
    path, faces = tmp_path / "baseline.json", clean.faces
    write_baseline(path, clean.baseline)
    for other in (
        drawn_faces(700, seed=31),
        replace(faces, images=faces.images[::-1], labels=faces.labels[::-1]),
        replace(faces, labels=np.roll(faces.labels, 1)),
    ):
        with pytest.raises(BadInput, match="a baseline of 700 images of drawn-faces PublicTest"):
            read_baseline(path, other)


def test_the_reports_say_every_check_and_every_changed_label(clean: Build) -> None:
    row = clean.rows["onnx fp32"]
    logits = logits_of(row).copy()
    logits[3] = np.nan
    logits[5] = np.roll(logits[5], 1)
    judged = judge([with_logits(row, logits)], clean.faces, Prepared(clean.faces.images), clean.baseline, Bounds())
    root = ElementTree.fromstring(reports.junit(judged))
    cases = root.findall("./testsuite/testcase")
    assert [case.get("name") for case in cases] == list(CHECKS)
    broken = {case.get("name") for case in cases if case.find("failure") is not None}
    assert broken == {check.name for check in failures(judged)}
    assert (root.get("failures"), root.get("tests")) == (str(len(broken)), str(len(CHECKS)))
    data = describe(clean.faces)
    page = reports.markdown(judged, data)
    assert "**onnxruntime, onnx fp32: finite**: 1 answers that are not finite" in page
    assert "| onnxruntime, onnx fp32 | 5 |" in page
    written = json.loads(json.dumps(reports.content(judged, data, {row.key: row.bundle.digest}), allow_nan=False))
    assert written["verdict"] == "failed"
    assert {3, 5} >= {flip["image"] for flip in written["rows"][0]["flips"]} >= {5}


def test_the_command_makes_a_baseline_passes_on_it_and_fails_on_a_fault(
    clean: Build, tmp_path: Path, command: Command, in_process: Command
) -> None:
    """What passes and what fails in processes of their own; the rest, made by the same main, here."""
    path, onnx, unfolded = tmp_path / "baseline.json", clean.bundles["onnx fp32"], clean.bundles["pytorch unfolded"]
    gate = ("fer-bench", "gate", "--baseline", path, "--runtime", "onnxruntime", "--threads", 1, "--no-latency")
    without = in_process(*gate, "--model", onnx.path)
    assert without.returncode == 2
    assert "no baseline can be read there" in without.stderr
    made = in_process(
        *gate, "--runtime", "pytorch", "--model", onnx.path, "--model", unfolded.path, "--update-baseline"
    )
    assert made.returncode == 0, made.stderr
    outs = [tmp_path / name for name in ("gate.xml", "gate.md", "gate.json")]
    wanted = [option for pair in zip(("--junit", "--markdown", "--json"), outs, strict=True) for option in pair]
    passed = command(*gate, "--model", onnx.path, *wanted)
    assert passed.returncode == 0, passed.stderr
    assert "0 failed, 12 passed, 1 skipped" in passed.stdout
    before = path.read_bytes()
    bad = forged(clean, FAULTS[0], FAULTS[0].strengths[-1], tmp_path)
    done = in_process(*gate, "--runtime", "pytorch", "--model", bad.path)
    assert done.returncode == 2  # pytorch was asked for too, and has no bundle
    done = command(*gate, "--model", bad.path, *wanted)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "logits" in done.stderr
    assert ElementTree.parse(outs[0]).getroot().get("failures") != "0"
    assert json.loads(outs[2].read_text())["verdict"] == "failed"
    refused = in_process(*gate, "--model", bad.path, "--update-baseline")
    assert refused.returncode == 2
    assert "add its bundle" in refused.stderr
    assert path.read_bytes() == before


def test_what_the_gate_cannot_judge_is_refused_by_name_before_any_work(
    clean: Build,
    measured: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its own main, here: no runtime is started for any of these."""
    path, cut, merged, own = (tmp_path / name for name in ("baseline.json", "cut.json", "merged.json", "keys"))
    write_baseline(path, clean.baseline)
    cut.write_text(json.dumps(measured)[:3000])
    own.write_text("")
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(own))
    merged.write_text(json.dumps(measured | {"format": 7}))
    data = tmp_path / "fer2013.csv"
    data.write_text(as_csv([replace(clean.faces, labels=np.roll(clean.faces.labels, 1))]))
    model = ("--runtime", "onnxruntime", "--model", clean.bundles["onnx fp32"].path)
    monkeypatch.setattr("fer_bench.gate.make.ask_apart", None)
    for options, complaint in [
        (("--baseline", cut, "--no-latency"), "cut.json: not a whole baseline"),
        (("--baseline", merged, "--no-latency"), "merged.json: not a baseline of fer-bench gate"),
        (("--baseline", path, "--data", data), "baseline.json: a baseline of 700 images of drawn-faces"),
        (("--baseline", path, "--results", cut), "cut.json: not a whole result file"),
        (("--baseline", path, "--results", merged), "merged.json: result format 7, this version reads 1"),
        (("--baseline", path, "--require-signature"), "not signed; sign it with fer-export"),
    ]:
        monkeypatch.setattr("fer_runtimes.drawn.drawn_faces", lambda *_: clean.faces)
        monkeypatch.setattr(sys, "argv", ["fer-bench", "gate", *map(str, options), *map(str, model)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr().err.strip()
        assert ended.value.code == 2
        assert complaint in said
        assert len(said.splitlines()) == 1


def test_an_engines_own_exception_is_a_line(clean: Build) -> None:
    said = ask_apart(clean.bundles["onnx fp32"].path, "onnxruntime", ONE, None)  # type: ignore[arg-type]
    assert isinstance(said, str)
    assert said.startswith("runtime onnxruntime failed (TypeError: ")


def test_a_runtime_that_is_killed_while_it_answers_costs_its_own_row(clean: Build) -> None:
    jobs = [Job(CELLS[name][3], clean.bundles[name]) for name in ("onnx fp32", "openvino fp32")]

    def kill() -> None:
        while True:
            for process in multiprocessing.active_children():
                if "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text():
                    os.kill(process.pid or 0, signal.SIGKILL)
                    return
            time.sleep(0.005)

    def said(text: str) -> None:
        if text.startswith("onnxruntime "):
            threading.Thread(target=kill, daemon=True).start()

    dead, alive = answered(jobs, Prepared(clean.faces.images), ONE, said)
    assert dead.answers == "runtime onnxruntime died while it answered (crash, or killed for memory)"
    assert isinstance(alive.answers, Answers)
    verdicts = judge([dead, alive], clean.faces, Prepared(clean.faces.images), clean.baseline, Bounds())
    assert [[check.name for check in failures([row])] for row in verdicts] == [["runs"], []]


def test_the_measurement_is_still_the_command_without_a_name(command: Command) -> None:
    assert "--max-slowdown" in command("fer-bench", "gate", "--help").stdout
    assert "Examples" in command("fer-bench", "gate", "--help").stdout
    assert "can run here" in command("fer-bench", "--list").stdout
    before = command("fer-bench", "--threads", 1, "gate", "--baseline", "b.json")
    assert before.returncode == 2
    assert "give them after it" in before.stderr
