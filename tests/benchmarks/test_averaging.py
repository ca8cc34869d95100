from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_bench import tables
from fer_bench.bench import Job, bench
from fer_bench.gate.baseline import Key
from fer_bench.gate.latency import latencies_of
from fer_bench.latency import LEAD_IN
from fer_bench.worker import Worker
from fer_runtimes.averaging import AVERAGES, Averaged, prepare_views
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare
from fer_runtimes.session import Options, open_session


def test_flip_is_the_face_and_its_mirror_image(faces: Faces) -> None:
    views = prepare_views(faces.images[:3], 48, 0.875, "flip")
    plain = prepare(faces.images[:3], 48, 0.875)
    np.testing.assert_array_equal(views[:, :1], plain)
    np.testing.assert_array_equal(views[:, 1:], plain[..., ::-1])


def test_ten_crop_is_the_centre_and_four_corners_and_their_mirror_images() -> None:
    x, y = np.meshgrid(np.arange(48), np.arange(48))
    ramp = np.stack([4 * x, 4 * y]).astype(np.uint8)
    views = prepare_views(ramp, 42, 0.875, "ten-crop")  # 42 of 48 pixels: cut out, not resized
    assert views.shape == (2, 10, 42, 42)
    corners = views[0, :5, 0, 0] // 4, views[1, :5, 0, 0] // 4
    assert list(zip(*(one.tolist() for one in corners), strict=True)) == [(3, 3), (0, 0), (0, 6), (6, 0), (6, 6)]
    np.testing.assert_array_equal(views[0, 2], ramp[0, 6:, :42])
    np.testing.assert_array_equal(views[:, 5:], views[:, :5, :, ::-1])


def test_an_average_that_is_unknown_or_has_no_corners_is_refused(faces: Faces) -> None:
    with pytest.raises(BadInput, match="known are flip, ten-crop"):
        prepare_views(faces.images[:1], 48, 0.9, "five-crop")
    with pytest.raises(BadInput, match="use flip"):
        prepare_views(faces.images[:1], 48, 1.0, "ten-crop")
    assert prepare_views(faces.images[:1], 48, 1.0, "flip").shape == (1, 2, 48, 48)


def test_an_averaged_session_gives_the_mean_of_each_faces_logits(bundles: dict[str, Bundle], faces: Faces) -> None:
    manifest = bundles["onnx fp32"].manifest
    views = prepare_views(faces.images[:5], manifest.size, manifest.crop, "flip")
    with open_session(bundles["onnx fp32"], "onnxruntime", Options(threads=1)) as session:
        expected = (session.infer(views[:, :1]) + session.infer(views[:, 1:])) / 2
        averaged = Averaged(session, 2)
        np.testing.assert_allclose(averaged.infer(views.reshape(-1, 1, *views.shape[2:])), expected, atol=1e-5)
        assert np.abs(expected - session.infer(views[:, :1])).max() > 1e-3
        with pytest.raises(BadInput, match="not whole faces of 2 views"):
            averaged.infer(views[:1, :1])


@pytest.fixture(scope="module")
def results(bundles: dict[str, Bundle], faces: Faces) -> tuple[dict[str, Any], dict[str, Any]]:
    jobs = [Job("pytorch", bundles["pytorch fp32"]), Job("onnxruntime", bundles["onnx fp32"])]
    plain = bench(jobs[1:], faces, Options(threads=1), 48, seconds=0)
    return plain, bench(jobs, faces, Options(threads=1), 48, seconds=0, average="flip")


def test_rows_are_scored_by_the_average_and_say_so(
    results: tuple[dict[str, Any], dict[str, Any]], bundles: dict[str, Bundle], faces: Faces
) -> None:
    plain, flipped = results
    manifest = bundles["onnx fp32"].manifest
    views = prepare_views(faces.images, manifest.size, manifest.crop, "flip")
    with open_session(bundles["onnx fp32"], "onnxruntime", Options(threads=1)) as session:
        logits = (session.infer(views[:, :1]) + session.infer(views[:, 1:])) / 2
    row = flipped["results"][1]
    assert row["accuracy"] == pytest.approx((logits.argmax(1) == faces.labels).mean())
    assert (row["average"], row["passes"], row["agreement_with"]) == ("flip", 2, "pytorch folded fp32 (flip)")
    assert row["parity_failure"] is None  # of one view, as the bundle was exported
    assert row["agreement"] == 1
    assert row["ratio"]["to"] == "pytorch (flip)"
    assert (plain["results"][0]["average"], plain["results"][0]["passes"]) == (None, 1)
    text = tables.markdown(flipped)
    assert "| onnxruntime (flip) |" in text
    assert "(flip): the mean logits of 2 views of each face, all of them in its latency" in text
    assert "flip" not in tables.markdown(plain)


def test_every_query_asks_the_engine_for_all_views_of_one_face(
    bundles: dict[str, Bundle], faces: Faces, tmp_path: Path
) -> None:
    bundle, path, asked = bundles["onnx fp32"], tmp_path / "views.npy", []
    np.save(path, prepare_views(faces.images[:30], bundle.manifest.size, bundle.manifest.crop, "flip"))
    worker = Worker(bundle.path, "null", Options(threads=1), path, time.monotonic_ns(), False, Path("/"), "flip")
    inner = worker._engine._infer

    def counted(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return inner(images)

    worker._engine._infer = counted  # type: ignore[method-assign]
    taken = worker.round(7, 0).nanoseconds
    assert asked == [2] * (7 + LEAD_IN)
    assert len(taken) == 7
    logits = worker.answer().logits
    assert logits is not None
    assert logits.shape == (30, 7)
    worker.close()


def test_it_needs_faces_and_stays_out_of_the_gate(
    results: tuple[dict[str, Any], dict[str, Any]], bundles: dict[str, Bundle], faces: Faces
) -> None:
    job = Job("onnxruntime", bundles["onnx fp32"])
    with pytest.raises(BadInput, match="needs --data"):
        bench([job], None, Options(threads=1), 12, seconds=0, average="flip")
    with pytest.raises(BadInput, match="is unknown"):
        bench([job], faces, Options(threads=1), 12, seconds=0, average="flop")
    whole = replace(job.bundle, manifest=replace(job.bundle.manifest, input=job.bundle.manifest.input | {"crop": 1.0}))  # type: ignore[arg-type, union-attr]
    with pytest.raises(BadInput, match="use flip"):
        bench([Job("onnxruntime", whole)], faces, Options(threads=1), 12, seconds=0, average="ten-crop")
    plain, flipped = (json.loads(json.dumps(one)) for one in results)
    digests = {Key("onnxruntime", "onnx", "fp32", True): bundles["onnx fp32"].digest}
    assert latencies_of(plain, digests, "plain").rounds
    with pytest.raises(BadInput, match="measure without --average"):
        latencies_of(flipped, digests, "flipped")


def test_names_are_those_of_the_table() -> None:
    assert {name: len(views) for name, views in AVERAGES.items()} == {"flip": 2, "ten-crop": 10}
