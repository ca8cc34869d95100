from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command

from fer_export.pipeline import Source, export
from fer_runtimes import metrics
from fer_runtimes.bundle import MANIFEST, Bundle, read_bundle
from fer_runtimes.data import Faces
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.images import prepare
from fer_runtimes.session import open_session
from fer_runtimes.temperature import FEWEST, SEED, calibrate, check_record, first_half, fit_temperature, held_out_part


def sampled(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with the probabilities softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(count, 7))
    shares = metrics.softmax(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) < shares).argmax(1)


def noise(count: int, seed: int = 0) -> Faces:
    """Faces that are no faces, all different, the classes in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 48, 48), dtype=np.uint8)
    return Faces("noise", "test", images, np.arange(count, dtype=np.int64) % 7, "")


@pytest.fixture
def record() -> dict[str, Any]:
    faces = noise(700)
    logits, labels = sampled(700, 1.7)
    return calibrate(logits, replace(faces, labels=labels.astype(np.int64)))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    assert fit_temperature(*sampled(5_000, temperature)) == pytest.approx(temperature, rel=0.06)


def test_no_other_temperature_has_a_smaller_negative_log_likelihood() -> None:
    logits, labels = sampled(400, 1.5)
    tensor, truth = torch.from_numpy(logits), torch.from_numpy(labels)

    def nll(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(tensor / temperature, truth))

    best = fit_temperature(logits, labels)
    assert all(nll(best) <= nll(best * factor) for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2))


def test_the_fit_does_not_depend_on_what_is_added_to_all_logits_of_a_face_and_scales_with_them() -> None:
    logits, labels = sampled(400, 1.5)
    best = fit_temperature(logits, labels)
    assert fit_temperature(logits + np.arange(400)[:, None] * 10, labels) == pytest.approx(best, rel=1e-6)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3 * best, rel=1e-6)


def test_faces_that_bound_no_temperature_are_refused() -> None:
    logits, labels = sampled(200, 1)
    with pytest.raises(BadInput, match="answered right, bound no temperature"):
        fit_temperature(logits, logits.argmax(1))
    with pytest.raises(BadInput, match="bound no temperature"):
        fit_temperature(logits, logits.argmin(1))
    logits[3, 2] = np.nan
    with pytest.raises(BadInput, match="finite logits"):
        fit_temperature(logits, labels)
    with pytest.raises(BadInput, match=f"needs {2 * FEWEST}"):
        calibrate(*(lambda z, y: (z, replace(noise(150), labels=y)))(*sampled(150, 1)))


def test_halves_share_no_picture_split_each_class_and_do_not_depend_on_order() -> None:
    faces = noise(210)
    images = np.concatenate([faces.images, faces.images[:30]])  # copies, and with another label
    labels = np.concatenate([faces.labels, (faces.labels[:30] + 1) % 7])
    half = first_half(images, labels)
    assert (half[:30] == half[210:]).all()
    for label in range(7):
        of_class = half[:210][faces.labels == label]
        assert abs(int(of_class.sum()) - int((~of_class).sum())) <= 10  # copies have moved some between classes
    order = np.random.default_rng(1).permutation(240)
    assert (first_half(images[order], labels[order]) == half[order]).all()
    assert (first_half(images, labels, SEED + 1) != half).any()
    plain = first_half(faces.images, faces.labels)
    assert np.bincount(faces.labels[plain]).tolist() == [15] * 7


def test_a_record_is_judged_on_the_half_that_it_was_not_fitted_on(record: dict[str, Any]) -> None:
    logits, labels = sampled(700, 1.7)
    faces = replace(noise(700), labels=labels.astype(np.int64))
    half = first_half(faces.images, faces.labels)
    assert record["temperature"] == fit_temperature(logits[half], labels[half])
    assert record["fitted_on"]["images"] + record["held_out"]["images"] == 700
    by_hand = metrics.calibration_error(metrics.softmax(logits[~half]), labels[~half])
    assert record["held_out"]["calibration_error"]["raw"] == by_hand > record["held_out"]["calibration_error"]["scaled"]

    chosen, words = held_out_part(faces, record)
    assert (chosen == ~half).all()
    assert words == "the half that it was not fitted on"
    shuffled = np.random.default_rng(0).permutation(700)  # the same faces from another file
    other = replace(faces, images=faces.images[shuffled], labels=faces.labels[shuffled], sha256="other")
    assert (held_out_part(other, record)[0] == ~half[shuffled]).all()
    assert held_out_part(noise(50, seed=9), record)[0].all()
    assert held_out_part(faces, None)[0].all()


def test_faces_that_stand_in_the_training_split_have_no_part_in_it() -> None:
    logits, labels = sampled(700, 1.7)
    seen = np.arange(700) < 300
    logits[seen] = 5 * np.eye(7)[labels[seen]]  # known by heart
    faces = replace(noise(700), labels=labels.astype(np.int64), seen=seen)
    record = calibrate(logits, faces)
    assert record["temperature"] == pytest.approx(1.7, rel=0.25)
    assert calibrate(logits, replace(faces, seen=None))["temperature"] < 0.8 * record["temperature"]
    chosen, words = held_out_part(faces, record)
    assert not (chosen & seen).any()
    assert words == "the half that it was not fitted on, unseen in training"


# --- files ------------------------------------------------------------------------------------


def damaged(record: dict[str, Any], *keys: str, value: object) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(record)
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return changed


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), 10**400, "1.2", None, True, [1.0], {}])
def test_a_bundle_with_a_damaged_temperature_is_refused(
    record: dict[str, Any], bundles: dict[str, Bundle], tmp_path: Path, value: object
) -> None:
    path = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    manifest = json.loads((path / MANIFEST).read_text())
    for content in (damaged(record, "temperature", value=value), {"temperature": value}):
        (path / MANIFEST).write_text(json.dumps(manifest | {"probabilities": content}))
        with pytest.raises(BadInput, match=f"{MANIFEST}: .*calibrate and export it again"):
            read_bundle(path)
    (path / MANIFEST).write_text(json.dumps(manifest | {"probabilities": record}))
    assert read_bundle(path).manifest.temperature == record["temperature"]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("fitted_on",), None),
        (("fitted_on", "split"), 3),
        (("fitted_on", "images"), 0),
        (("fitted_on", "half_sha256"), None),
        (("held_out", "nll"), {}),
        (("held_out", "calibration_error", "scaled"), float("nan")),
    ],
)
def test_what_stands_beside_a_temperature_is_checked_too(
    record: dict[str, Any], keys: tuple[str, ...], value: object
) -> None:
    check_record(record, "here")
    with pytest.raises(BadInput, match="here: "):
        check_record(damaged(record, *keys, value=value), "here")
    for other in ([], "1.0", 1.0, {}):
        with pytest.raises(BadInput, match="here: "):
            check_record(other, "here")


def test_a_manifest_made_before_temperatures_reads_as_not_calibrated(
    bundles: dict[str, Bundle], tmp_path: Path, faces: Faces
) -> None:
    path = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["probabilities"]
    (path / MANIFEST).write_text(json.dumps(manifest))
    bundle = read_bundle(path)
    assert (bundle.manifest.probabilities, bundle.manifest.temperature) == (None, 1.0)
    images = prepare(faces.images[:5], bundle.manifest.size, bundle.manifest.crop)
    with open_session(bundle, "onnxruntime") as session:
        np.testing.assert_array_equal(session.probabilities(images), metrics.softmax(session.infer(images)))


def test_logits_stay_and_probabilities_take_the_temperature(
    record: dict[str, Any], bundles: dict[str, Bundle], tmp_path: Path, faces: Faces
) -> None:
    path = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {"probabilities": record}))
    bundle = read_bundle(path)
    images = prepare(faces.images[:20], bundle.manifest.size, bundle.manifest.crop)
    with open_session(bundles["onnx fp32"], "onnxruntime") as plain, open_session(bundle, "onnxruntime") as session:
        logits = plain.infer(images)
        np.testing.assert_array_equal(session.infer(images), logits)
        expected = torch.from_numpy(logits.astype(np.float64) / record["temperature"]).softmax(1).numpy()
        np.testing.assert_allclose(session.probabilities(images), expected, rtol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_core_ml_package_gives_the_probabilities_of_its_temperature_and_raw_logits(
    precision: str, record: dict[str, Any], source: Source, bundles: dict[str, Bundle], tmp_path: Path, faces: Faces
) -> None:
    warm = replace(source, checkpoint=replace(source.checkpoint, probabilities=record))
    bundle = export(warm, "coreml", tmp_path, precision)  # raises where the package's own softmax is another
    assert bundle.manifest.probabilities == record
    images = prepare(faces.images[:3], bundle.manifest.size, bundle.manifest.crop)
    with (
        open_session(bundle, "coreml-reference") as session,
        open_session(bundles[f"coreml {precision}"], "coreml-reference") as plain,
    ):
        np.testing.assert_array_equal(session.infer(images), plain.infer(images))
    # a manifest that names another temperature than the package has
    content = json.loads((bundle.path / MANIFEST).read_text())
    content["probabilities"]["temperature"] *= 0.8
    (bundle.path / MANIFEST).write_text(json.dumps(content))
    with (
        open_session(read_bundle(bundle.path), "coreml-reference") as session,
        pytest.raises(CheckFailed, match="probabilities are not softmax"),
    ):
        session.infer(images)


def test_a_checkpoint_that_exists_is_calibrated_and_its_weights_stay(
    checkpoint: Path, tmp_path: Path, command: Command
) -> None:
    from conftest import as_csv

    from fer_train.checkpoint import load_checkpoint, save_checkpoint

    before = load_checkpoint(checkpoint)
    assert before.probabilities is None  # trained beside too few faces
    faces = drawn_faces(280, seed=8)
    labels = np.where(np.arange(280) % 4 == 0, (faces.labels + 3) % 7, faces.labels)  # else all are answered right
    data = tmp_path / "mine.csv"
    data.write_text(as_csv([drawn_faces(14, 3, "Training"), replace(faces, labels=labels)]))
    out = tmp_path / "warm.pt"
    done = command("fer-train", "calibrate", checkpoint, "--data", data, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert "fitted on 140 faces of mine PublicTest; on the other 140: calibration error" in done.stderr
    after = load_checkpoint(out)
    assert after.probabilities is not None
    assert all(torch.equal(after.state_dict[key], value) for key, value in before.state_dict.items())
    assert load_checkpoint(checkpoint).probabilities is None
    refused = command("fer-train", "calibrate", checkpoint, "--data", data, "--split", "Training", "--out", out)
    assert refused.returncode == 2
    assert "trained on" in refused.stderr
    save_checkpoint(out, replace(after, probabilities=damaged(after.probabilities, "temperature", value=-1.0)))
    with pytest.raises(BadInput, match=r"warm\.pt: temperature -1\.0"):
        load_checkpoint(out)


def test_training_fits_it_on_the_faces_that_were_watched(checkpoint: Path, tmp_path: Path) -> None:
    from fer_train.checkpoint import load_checkpoint
    from fer_train.loop import train
    from fer_train.recipe import Recipe

    watched, training = drawn_faces(280, 2), drawn_faces(70, 1, "Training")
    labels = np.where(np.arange(280) % 4 == 0, (watched.labels + 3) % 7, watched.labels)  # else all are answered right
    training = replace(training, images=np.concatenate([training.images[:-1], watched.images[:1]]))
    recipe = Recipe(model="fer_mobileone_xs", epochs=1, batch_size=35, lr=1e-6, warmup=0)
    made = train(recipe, training, replace(watched, labels=labels), tmp_path / "run", start=checkpoint)
    assert made.probabilities is not None
    assert made.probabilities["fitted_on"]["images"] + made.probabilities["held_out"]["images"] == 279  # one is seen
    assert load_checkpoint(tmp_path / "run" / "last.pt").probabilities == made.probabilities
