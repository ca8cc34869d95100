from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from fer_bench.bench import Job, bench
from fer_bench.gate import reports
from fer_bench.gate.answers import Answers, Prepared
from fer_bench.gate.baseline import Baseline, describe, read_baseline, write_baseline
from fer_bench.gate.checks import CHECKS, FAILED, SKIPPED, Answered, Check, failures, judge, rows_that_did_not_run
from fer_bench.gate.figures import Bounds, calibration_error, loss_bound
from fer_bench.gate.latency import latencies_of
from fer_bench.gate.make import baseline_of
from fer_bench.gate.preprocessing import departure
from fer_runtimes.bundle import Reference, read_bundle, write_manifest
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
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
    ("worse", "better", "bound"), [(20, 16, 0.0039), (30, 10, 0.0085), (0, 0, 0.0), (10, 16, 0.0007)]
)
def test_the_bound_of_the_loss_is_that_of_paired_answers(worse: int, better: int, bound: float) -> None:
    was, now = np.ones(3589, dtype=bool), np.ones(3589, dtype=bool)
    now[:worse] = False
    was[worse : worse + better] = False
    assert loss_bound(was, now)[:2] == (worse, better)
    assert loss_bound(was, now)[2] == pytest.approx(bound, abs=5e-5)


def test_a_true_loss_of_one_and_a_half_points_hardly_ever_passes_and_no_loss_hardly_ever_fails() -> None:
    random, images, bound = np.random.default_rng(0), 3589, Bounds().accuracy_loss
    passed = {0.0: 0, 0.015: 0}
    for loss in passed:
        for _ in range(2000):
            move = random.random(images)  # 0.1 % of the answers change either way, and the loss on top
            was, now = move >= 0.001, (move < 0.001) | (move >= 0.002 + loss)
            passed[loss] += loss_bound(was, now)[2] <= bound
    assert passed[0.015] == 0
    assert passed[0.0] > 1900


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
    faces = drawn_faces(7000, seed=31)
    few = np.flatnonzero((faces.labels != 1) | (np.arange(7000) < 350))  # 50 of disgust
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


# --- latency ---------------------------------------------------------------------------------


def test_latency_is_a_ratio_of_one_run_and_of_the_same_file(clean: Build) -> None:
    names = ("onnx fp32", "openvino fp32")
    results = bench([Job(CELLS[name][3], clean.bundles[name]) for name in names], None, ONE, 64)
    rows = [clean.rows[name] for name in names]
    digests = {row.key: row.bundle.digest for row in rows}
    before = latencies_of(results, digests, "results")
    truth = Reference(clean.faces.images, clean.baseline.logits, clean.baseline.logits_fp32, np.full(700, "face"))
    baseline = baseline_of(rows, clean.faces, truth, before)
    assert baseline.latency_reference == "onnxruntime, onnx fp32"

    def latency(openvino: float, both: float = 1.0, slowdown: float = 1.25) -> str:
        later = json.loads(json.dumps(results))
        for row, factor in zip(later["results"], (both, both * openvino), strict=True):
            row["latency_ms"]["p50"] *= factor
        given = latencies_of(later, digests, "results")
        return clean.judge(rows[1], baseline=baseline, latencies=given, bounds=Bounds(slowdown=slowdown))[
            "latency"
        ].verdict

    assert latency(1.2) == "passed"
    assert latency(1.3) == "failed"
    assert latency(1.3, slowdown=1.4) == "passed"
    assert latency(1.0, both=10) == "passed"  # a slower machine is no loss
    assert clean.judge(rows[1], baseline=baseline)["latency"].verdict == SKIPPED
    results["results"][1]["bundle_sha256"] = "0" * 64
    with pytest.raises(BadInput, match="openvino fp32 was measured on a bundle of digest 000000000000"):
        latencies_of(results, digests, "results.json")
    del results["results"][0]["latency_ms"]
    with pytest.raises(BadInput, match=r"results.json: a damaged result file"):
        latencies_of(results, digests, "results.json")


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
        (lambda text: text.replace('"format": 1', '"format": 2'), "baseline format 2, this version reads 1"),
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
    clean: Build, tmp_path: Path, command: Command
) -> None:
    folder, path = clean.bundles["onnx fp32"].path.parent, tmp_path / "baseline.json"
    few = ("--runtime", "onnxruntime", "--runtime", "pytorch", "--threads", 1)
    gate = ("fer-bench", "gate", "--baseline", path, *few, "--no-latency")
    bundle = ("--model", clean.bundles["onnx fp32"].path, "--model", clean.bundles["pytorch unfolded"].path)
    assert command(*gate, *bundle).returncode == 2
    made = command(*gate, *bundle, "--update-baseline")
    assert made.returncode == 0, made.stderr
    outs = [tmp_path / name for name in ("gate.xml", "gate.md", "gate.json")]
    wanted = [option for pair in zip(("--junit", "--markdown", "--json"), outs, strict=True) for option in pair]
    passed = command(*gate, *bundle, *wanted)
    assert passed.returncode == 0, passed.stderr
    assert "0 failed, 22 passed, 2 skipped" in passed.stdout
    bad = forged(clean, FAULTS[0], FAULTS[0].strengths[-1], tmp_path)
    done = command(*gate, "--model", bad.path, "--runtime", "onnxruntime", *wanted)
    assert done.returncode == 2  # pytorch was asked for too, and has no bundle
    alone = ("fer-bench", "gate", "--baseline", path, "--runtime", "onnxruntime", "--no-latency", "--model", bad.path)
    done = command(*alone, *wanted)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "logits" in done.stderr
    assert ElementTree.parse(outs[0]).getroot().get("failures") != "0"
    assert json.loads(outs[2].read_text())["verdict"] == "failed"
    assert folder.is_dir()
    before = path.read_bytes()
    refused = command(*alone[:4], *alone[4:], "--update-baseline")
    assert refused.returncode == 2
    assert "add its bundle" in refused.stderr
    assert path.read_bytes() == before


def test_the_measurement_is_still_the_command_without_a_name(command: Command) -> None:
    assert "--max-slowdown" in command("fer-bench", "gate", "--help").stdout
    assert "Examples" in command("fer-bench", "gate", "--help").stdout
    assert "can run here" in command("fer-bench", "--list").stdout
    before = command("fer-bench", "--threads", 1, "gate", "--baseline", "b.json")
    assert before.returncode == 2
    assert "give them after it" in before.stderr
