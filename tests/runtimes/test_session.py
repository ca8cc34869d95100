from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images

from fer_runtimes import session as sessions
from fer_runtimes.bundle import MANIFEST, Bundle, read_bundle
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.session import Options, open_session, runtimes_for, why_not

PAIRS = [
    ("pytorch", "pytorch fp32"),
    ("pytorch", "pytorch unfolded"),
    ("onnxruntime", "onnx fp32"),
    ("openvino", "openvino fp32"),
    ("openvino", "openvino fp16"),
    ("onnxruntime", "onnx int8"),
    ("openvino", "openvino int8"),
    ("openvino", "onnx int8"),
    ("openvino", "onnx fp32"),
    ("coreml-reference", "coreml fp32"),
    ("coreml-reference", "coreml fp16"),
    ("onnxruntime", "tensorrt fp32"),
    ("onnxruntime", "tensorrt fp16"),
    ("onnxruntime", "tensorrt int8"),
    ("onnxruntime-cuda", "onnx fp32"),
    ("onnxruntime-cuda", "tensorrt fp16"),
    ("tensorrt", "tensorrt fp32"),
    ("tensorrt", "tensorrt fp16"),
    ("tensorrt-rtx", "onnx fp32"),
    ("tensorrt-rtx", "tensorrt fp16"),
    ("coreml", "coreml fp32"),
    ("null", "onnx fp32"),
]
# Runtimes that compute in what the bundle declares, though they run on the CPU.
AS_DECLARED = {"coreml", "coreml-reference"}
# Half a unit in the last place of float16 at the largest logits, some rounded differently in a batch; int8: a level here and there.
CLOSE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}


def here(runtime: str) -> None:
    """Skips where a runtime cannot run, saying why: those for GPUs, mostly."""
    if reason := why_not(runtime):
        pytest.skip(reason)


def test_every_runtime_of_the_table_is_tested_here() -> None:
    assert {runtime for runtime, _ in PAIRS} == set(ENGINES)


@pytest.mark.parametrize(("runtime", "bundle"), PAIRS)
def test_a_runtime_answers_batches_and_reports_what_it_uses(
    bundles: dict[str, Bundle], runtime: str, bundle: str
) -> None:
    here(runtime)
    precision = bundles[bundle].manifest.precision
    images = random_images(5)
    with open_session(bundles[bundle], runtime, Options(threads=1)) as session:
        logits = session.infer(images)
        assert logits.dtype == np.float32
        assert logits.shape == (5, 7)
        np.testing.assert_allclose(session.infer(images[2:3]), logits[2:3], atol=CLOSE[precision])
        report = session.report()
    on_cpu = (
        ENGINES[runtime].device == "cpu" and runtime not in AS_DECLARED and bundle not in ("onnx int8", "openvino int8")
    )
    assert report.compute == ("none" if runtime == "null" else "fp32" if on_cpu else precision)
    assert report.threads == (1 if ENGINES[runtime].device == "cpu" and runtime != "null" else 0)


@pytest.mark.parametrize(("runtime", "bundle"), PAIRS)
def test_the_caller_owns_the_result(bundles: dict[str, Bundle], runtime: str, bundle: str) -> None:
    here(runtime)
    images = random_images(2)
    with open_session(bundles[bundle], runtime) as session:
        first = session.infer(images[:1])
        kept = first.copy()
        session.infer(images[1:])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 48, 48), np.float32),
        np.zeros((1, 1, 47, 48), np.uint8),
        np.zeros((1, 3, 48, 48), np.uint8),
        np.zeros((48, 48), np.uint8),
        np.zeros((0, 1, 48, 48), np.uint8),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
@pytest.mark.parametrize(("runtime", "bundle"), PAIRS)
def test_input_of_another_dtype_or_shape_is_refused(
    bundles: dict[str, Bundle], runtime: str, bundle: str, images: np.ndarray
) -> None:
    here(runtime)
    with open_session(bundles[bundle], runtime) as session, pytest.raises(BadInput, match="expected uint8"):
        session.infer(images)


@pytest.mark.parametrize(
    ("runtime", "bundle"),
    [pair for pair in PAIRS if pair[0] != "null" and not ENGINES[pair[0]].probe and not ENGINES[pair[0]].system],
)
def test_a_device_that_is_not_here_is_an_error_and_no_fallback(
    bundles: dict[str, Bundle], runtime: str, bundle: str
) -> None:
    for device in ("cuda", "npu"):
        try:
            import torch

            if runtime == "pytorch" and device == "cuda" and torch.cuda.is_available():
                continue
        except ImportError:
            pass
        with pytest.raises(NotAvailable, match=r"device|Provider"):
            open_session(bundles[bundle], runtime, Options(device=device))


def test_openvino_computes_in_float32_when_float32_is_asked_whatever_the_cpu_prefers(
    bundles: dict[str, Bundle],
) -> None:
    with open_session(bundles["openvino fp32"], "openvino") as session:
        assert session.report().compute == "fp32"


def test_a_precision_that_the_engine_does_not_compute_is_an_error(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundles["openvino fp32"].path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "precision": "fp8"}))
    with pytest.raises(NotAvailable, match="not fp8"):
        open_session(read_bundle(copy), "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bundle_that_says_int8_and_is_not_is_an_error(
    bundles: dict[str, Bundle], tmp_path: Path, runtime: str
) -> None:
    copy = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "precision": "int8"}))
    with pytest.raises(NotAvailable, match="asked for int8 and computes none of 8"):
        open_session(read_bundle(copy), runtime).report()


def test_onnxruntime_that_falls_back_is_an_error(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    # A build that lists CUDA and cannot load it: the session is real, only the list is not.
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises((NotAvailable, BadInput), match="CUDAExecutionProvider"):
        open_session(bundles["onnx fp32"], "onnxruntime", Options(device="cuda"))


def test_a_bundle_of_another_target_is_refused_with_the_runtime_that_runs_it(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BadInput, match="use --runtime openvino"):
        open_session(bundles["openvino fp32"], "onnxruntime")


def test_no_threads_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BadInput, match="threads is 0"):
        open_session(bundles["onnx fp32"], "onnxruntime", Options(threads=0))


def test_a_runtime_says_in_one_line_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("onnxruntime") is None
    assert "unknown" in str(why_not("tflite"))
    monkeypatch.setattr(sessions, "find_spec", lambda _: None)
    for name, engine in ENGINES.items():
        if engine.needs and engine.system in ("", platform.system()):
            assert (
                why_not(name) == f"runtime {name} needs {', '.join(engine.needs)}, not installed here; {engine.install}"
            )


def test_runtimes_are_found_for_a_target() -> None:
    assert runtimes_for("onnx") == ["onnxruntime", "openvino", "onnxruntime-cuda", "tensorrt-rtx"]
    assert runtimes_for("tensorrt") == ["onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML can run here")
def test_core_ml_off_macos_is_refused_with_what_stands_in_for_it(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(NotAvailable, match="runtime coreml runs on macOS alone; here use coreml-reference"):
        open_session(bundles["coreml fp16"], "coreml")
