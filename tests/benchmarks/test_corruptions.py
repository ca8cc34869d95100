from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image, ImageFilter

from fer_bench.bench import Job
from fer_bench.corruptions import tables
from fer_bench.corruptions.made import CORRUPTIONS, SEVERITIES, corrupted
from fer_bench.corruptions.measure import measure
from fer_bench.corruptions.views import View, seen_as
from fer_bench.gate.figures import loss_interval
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces
from fer_runtimes.errors import NotAvailable
from fer_runtimes.session import Options

NUMBERS = np.arange(6)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time_and_grows_with_its_severity(name: str, faces: Faces) -> None:
    images = np.asarray(faces.images[:6])
    before = images.copy()
    made = [corrupted(images, name, severity, 0, NUMBERS) for severity in SEVERITIES]
    np.testing.assert_array_equal(images, before)
    for one in made:
        assert (one.dtype, one.shape) == (np.uint8, images.shape)
    distance = [float(np.abs(one.astype(float) - images).mean()) for one in made]
    assert distance[0] > 0
    assert distance == sorted(distance)
    np.testing.assert_array_equal(made[2], corrupted(images, name, 3, 0, NUMBERS))
    # an image's corruption follows from its number, not from what is asked beside it
    np.testing.assert_array_equal(made[2][4:5], corrupted(images[4:5], name, 3, 0, NUMBERS[4:5]))


@pytest.mark.parametrize("name", ["motion blur", "gaussian noise", "shot noise", "low light", "shift", "occlusion"])
def test_what_is_drawn_differs_by_seed_and_by_image(name: str, faces: Faces) -> None:
    twice = np.stack([faces.images[0]] * 2)
    first, second = corrupted(twice, name, 3, 0, np.array([0, 1]))
    assert (first != second).any()
    assert (corrupted(twice, name, 3, 1, np.array([0, 1]))[0] != first).any()


def flat(level: int) -> np.ndarray:
    return np.full((40, 48, 48), level, np.uint8)


def test_noise_has_the_strength_that_the_table_says() -> None:
    many = np.arange(40)
    assert corrupted(flat(128), "gaussian noise", 3, 0, many).std() == pytest.approx(18, rel=0.02)
    # of n photons the standard deviation is the root of n
    assert corrupted(flat(128), "shot noise", 2, 0, many).std() == pytest.approx(
        (128 / 255 / 400) ** 0.5 * 255, rel=0.03
    )
    dark = corrupted(flat(200), "low light", 2, 0, many)
    assert (dark.mean(), dark.std()) == (pytest.approx(80, abs=0.2), pytest.approx(4, rel=0.03))


def test_blur_light_and_contrast_keep_what_they_should(faces: Faces) -> None:
    image = np.asarray(faces.images[0])
    for level in (10, 240):
        for name in ("gaussian blur", "motion blur", "contrast", "rotation", "zoom in", "zoom out", "shift"):
            assert (corrupted(flat(level)[:1], name, 5, 0, NUMBERS[:1]) == level).all()
    theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)), float)  # by boxes, so not the same
    ours = corrupted(image[None], "gaussian blur", 5, 0, NUMBERS[:1])[0].astype(float)
    assert np.abs(ours - theirs).mean() < 2 < np.abs(image - theirs).mean()
    pale = corrupted(image[None], "contrast", 2, 0, NUMBERS[:1])[0].astype(float)
    assert (pale.std(), pale.mean()) == (
        pytest.approx(image.std() / 2, rel=0.02),
        pytest.approx(image.mean(), abs=0.5),
    )


def test_a_motion_blur_is_a_line_of_its_length_and_an_occlusion_a_square() -> None:
    dot = np.zeros((1, 48, 48), np.uint8)
    dot[0, 24, 24] = 255
    lengths = []
    for number in range(8):
        rows, columns = np.nonzero(corrupted(dot, "motion blur", 4, 0, np.array([number]))[0] > 5)
        lengths.append(np.hypot(np.ptp(rows), np.ptp(columns)))
    assert 6.5 < np.median(lengths) < 10.5
    hidden = corrupted(flat(7)[:8], "occlusion", 3, 0, np.arange(8)) != 7
    assert (hidden.sum((1, 2)) == 16 * 16).all()
    assert (hidden.any(1).sum(1) == 16).all()


def test_a_shift_moves_the_face_by_that_many_pixels() -> None:
    dot = np.zeros((1, 48, 48), np.uint8)
    dot[0, 22:26, 22:26] = 200
    right = seen_as(dot, View(right=3))
    np.testing.assert_array_equal(right[0][:, 3:], dot[0][:, :-3])
    np.testing.assert_array_equal(seen_as(dot, View(down=5))[0][5:], dot[0][:-5])


# --- figures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(bundles: dict[str, Bundle], faces: Faces) -> dict[str, Any]:
    jobs = [Job("onnxruntime", bundles["onnx fp32"]), Job("null", bundles["onnx fp32"])]
    return measure(jobs, faces, 60, 0, Options(threads=1))


def test_figures_are_those_of_the_same_pictures_scored_by_hand(
    results: dict[str, Any], bundles: dict[str, Bundle], faces: Faces
) -> None:
    from fer_runtimes.images import prepare
    from fer_runtimes.session import open_session

    bundle, numbers = bundles["onnx fp32"], np.sort(np.random.default_rng(0).permutation(140)[:60])
    model = results["models"][0]
    images, labels = faces.images[numbers], faces.labels[numbers]
    with open_session(bundle, "onnxruntime", Options(threads=1)) as session:

        def right(pictures: np.ndarray) -> np.ndarray:
            shown = prepare(pictures, bundle.manifest.size, bundle.manifest.crop)
            return np.asarray(session.infer(shown).argmax(1) == labels)

        clean, noisy = right(images), right(corrupted(images, "gaussian noise", 5, 0, numbers))
    assert model["clean"] == clean.mean()
    cell = model["corruptions"]["gaussian noise"]["severities"][4]
    assert cell["accuracy"] == noisy.mean()
    assert cell["drop"] == pytest.approx(clean.mean() - noisy.mean())
    assert cell["interval"][0] <= cell["drop"] <= cell["interval"][1]
    every = [one["accuracy"] for row in model["corruptions"].values() for one in row["severities"]]
    assert len(every) == 60
    assert model["mean"] == pytest.approx(np.mean(every))


def test_a_second_net_is_compared_with_the_first_on_the_same_pictures(results: dict[str, Any]) -> None:
    first, nothing = results["models"]
    assert first["to_first"] is None
    assert nothing["to_first"]["mean"] == pytest.approx(nothing["mean"] - first["mean"])
    low, high = nothing["to_first"]["interval"]
    assert low < nothing["to_first"]["mean"] < high < 0  # it answers one class always


def test_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, lost, images = np.random.default_rng(0), 0.03, 300
    held = 0
    for _ in range(300):
        worse, better, _ = random.multinomial(images, [0.05 + lost, 0.05, 0.9 - lost])
        low, high = loss_interval(int(worse), int(better), images)
        held += low <= lost <= high
    assert 0.91 <= held / 300 <= 0.99
    low, high = loss_interval(0, 0, 600)
    assert low == -high < 0


def test_tables_and_plot_hold_every_corruption(results: dict[str, Any], tmp_path: Path) -> None:
    from fer_bench import plotting

    text = tables.markdown(results)
    for name, row in CORRUPTIONS.items():
        assert f"| {name} ({row.unit}) | {row.levels[0]:g}: " in text
    assert "Side by side" in text
    assert "60 of 140 images of drawn-faces PublicTest, seed 0" in text
    alone = tables.markdown(results | {"models": results["models"][:1]})
    assert "Side by side" not in alone
    plotting.save(tables.plot(results), tmp_path / "plot.png")
    assert np.asarray(Image.open(tmp_path / "plot.png").convert("L")).std() > 5


def test_a_job_that_cannot_run_is_said_before_anything_is_measured(faces: Faces) -> None:
    with pytest.raises(NotAvailable, match="needs openvino"):
        measure([Job("openvino", None, "runtime openvino needs openvino")], faces, 5, 0, Options(threads=1))


def test_the_command_writes_json_markdown_and_a_plot(
    bundles: dict[str, Bundle], csv_file: Path, tmp_path: Path, command: Command
) -> None:
    out = {name: tmp_path / f"out.{name}" for name in ("json", "md", "svg")}
    done = command(
        *("fer-bench", "corruptions", "--data", csv_file, "--model", bundles["onnx fp32"].path, "--images", 20),
        *("--threads", 1, "--json", out["json"], "--markdown", out["md"], "--plot", out["svg"]),
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(out["json"].read_text())
    assert (content["format"], content["images"], content["data"]["split"]) == (1, 20, "PublicTest")
    assert out["md"].read_text().count("severity 5") == 2  # accuracy, and points more
    assert out["svg"].read_text().startswith("<?xml")
    assert "over all corruptions" in done.stdout
    refused = command("fer-bench", "corruptions", "--data", csv_file, "--plot", tmp_path / "plot.pdf")
    assert refused.returncode == 2
    assert "written as .png or .svg" in refused.stderr
