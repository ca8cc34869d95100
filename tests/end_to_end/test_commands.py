"""The commands as a user types them: what they write, what they print, how they end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Command, public_of, write_key

from fer_export.targets import TARGETS
from fer_runtimes.bundle import MANIFEST, Bundle, read_bundle
from fer_runtimes.files import sha256_of
from fer_runtimes.signing import trusted_signer


def test_from_data_to_a_table(csv_file: Path, tmp_path: Path, command: Command, in_process: Command) -> None:
    trained = command(
        "fer-train",
        "--data",
        csv_file,
        "--model",
        "fer_repvgg_xs",
        "--epochs",
        1,
        "--batch-size",
        16,
        "--out",
        tmp_path / "run",
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip() == str(tmp_path / "run" / "last.pt")
    exported = command(
        "fer-export",
        "--target",
        "all",
        "--checkpoint",
        tmp_path / "run" / "best.pt",
        "--data",
        csv_file,
        "--out",
        tmp_path / "build",
    )
    assert exported.returncode == 0, exported.stderr
    assert [read_bundle(Path(line)).manifest.target for line in exported.stdout.split()] == [
        "pytorch",
        "onnx",
        "openvino",
        "tensorrt",
        "coreml",
    ]
    out = tmp_path / "out.json"
    measured = in_process(  # a warm-up of a second (conftest)
        "fer-bench",
        "--runtime",
        "all",
        "--model",
        tmp_path / "build",
        "--data",
        csv_file,
        "--split",
        "PublicTest",
        "--json",
        out,
        "--csv",
        tmp_path / "out.csv",
        "--markdown",
        tmp_path / "out.md",
        "--queries",
        32,
        "--seconds",
        0,
    )
    assert measured.returncode == 0, measured.stderr
    rows = json.loads(out.read_text())["results"]
    assert [(row["runtime"], row["target"]) for row in rows] == [
        ("pytorch", "pytorch"),
        ("onnxruntime", "onnx"),
        ("onnxruntime", "tensorrt"),
        ("openvino", "onnx"),
        ("openvino", "openvino"),
        ("coreml-reference", "coreml"),
    ]
    assert {row["accuracy"] for row in rows} == {rows[0]["accuracy"]}
    assert "onnxruntime" in measured.stdout
    assert (tmp_path / "out.csv").exists()
    assert (tmp_path / "out.md").exists()


@pytest.mark.parametrize("name", ["fer-train", "fer-export", "fer-bench", "fer-deploy"])
def test_help_shows_examples(command: Command, name: str) -> None:
    assert "Examples" in command(name, "--help").stdout


def test_lists_say_what_can_run_here(command: Command, in_process: Command) -> None:
    assert "onnxruntime      can run here" in command("fer-bench", "--list").stdout
    assert re.search(r"openvino +fp32,fp16\S* +can be exported here", command("fer-export", "--list").stdout)
    assert in_process("fer-train", "--list-models", "fer_mobileone_*").stdout.split() == [
        "fer_mobileone_xs",
        "fer_mobileone_s",
        "fer_mobileone_m",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fer-train", "--data", "nothing.csv"], "nothing.csv: no such file or folder"),
        (["fer-train", "--resume", "nowhere"], "no such file; expected a run to continue"),
        (["fer-train", "--model", "resnet19", "--out", "{tmp}/run"], "'resnet19' is unknown"),
        (["fer-export", "--target", "tflite"], "known are pytorch, onnx, openvino"),
        (["fer-export", "--target", "onnx", "--precision", "int3"], "it has fp32"),
        (["fer-export", "--checkpoint", "{tmp}/text.pt"], "text.pt"),
        (["fer-export", "--checkpoint", "absent.pt"], "absent.pt: no such file"),
        (["fer-export", "--sign", "absent"], "absent: no such key"),
        (["fer-export", "--sign", "{tmp}/text.pt"], "not a private key"),
        (["fer-export", "--sign", "{tmp}"], "Is a directory"),
        (["fer-export", "--model", "{onnx}"], "give the key with --sign"),
        (["fer-export", "--model", "{onnx}", "--sign", "absent", "--no-fold"], "leave out --fold"),
        (["fer-export", "--model", "{altered}", "--sign", "{key}"], "its contents are not those"),
        (["fer-bench", "--require-signature"], "--require-signature needs --model"),
        (["fer-bench", "--model", "{onnx}", "--require-signature"], "not signed; sign it with fer-export --model"),
        (["fer-export", "--target", "onnx", "--workspace", "64"], "--workspace is for target tensorrt, not for onnx"),
        (["fer-export", "--target", "all", "--builds", "3"], "--builds is for target tensorrt, not for all"),
        (["fer-export", "--target", "tensorrt", "--for", "toaster"], "board 'toaster' is unknown"),
        (["fer-export", "--target", "tensorrt", "--for", "jetson-xavier-nx"], "ends at JetPack 5 with TensorRT 8.5"),
        (
            ["fer-export", "--target", "tensorrt", "--for", "jetson-orin-nano", "--dla-core", "0"],
            "jetson-orin-nano has no DLA cores",
        ),
        (["fer-export", "--target", "tensorrt", "--batch", "4", "1", "8"], "batch is [4, 1, 8]"),
        (
            ["fer-export", "--target", "tensorrt", "--precision", "bf16"],
            "precision is 'bf16', TensorRT builds fp32, fp16, int8",
        ),
        (["fer-export", "--target", "onnx", "--precision", "int8"], "needs faces to calibrate on; give --data"),
        (["fer-export", "--target", "onnx", "--max-drop", "0.1"], "--max-drop is for --precision int8, not for fp32"),
        (
            ["fer-export", "--target", "onnx", "--precision", "int8", "--data", "{csv}"],
            "holds 70 different faces; 512 to calibrate on and a quarter held out need about 683",
        ),
        (
            ["fer-export", "--target", "onnx", "--precision", "int8", "--calibration-method", "entropy"],
            "'entropy' is unknown; known are mse, minmax, percentile",
        ),
        (["fer-export", "--target", "tensorrt", "--finish", "{onnx}"], "is of target onnx, not tensorrt"),
        (["fer-export", "--target", "onnx", "--finish", "{onnx}"], "has no engine to finish"),
        (
            ["fer-export", "--target", "tensorrt", "--finish", "{tensorrt}", "--workspace", "64"],
            "--workspace has no use with --finish",
        ),
        (["fer-bench", "--runtime", "tflite"], "known are all, pytorch"),
        (["fer-bench", "--model", "nowhere"], "nowhere: no such bundle"),
        (["fer-bench", "--runtime", "onnxruntime", "--model", "{openvino}"], "runs on onnxruntime"),
        (
            ["fer-bench", "--runtime", "onnxruntime", "--model", "{altered}"],
            "its contents are not those that the manifest names",
        ),
        (["fer-bench", "--runtime", "onnxruntime", "--model", "{onnx}", "--device", "cuda"], "CUDAExecutionProvider"),
        (
            ["fer-bench", "--runtime", "onnxruntime", "--model", "{onnx}", "--data", "nothing.csv"],
            "nothing.csv: no such file or folder",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    complaint: str,
    bundles: dict[str, Bundle],
    csv_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: Command,
) -> None:
    """The commands' own main, here rather than in a process each: starting one takes longer than being refused."""
    (tmp_path / "text.pt").write_text("not a checkpoint")
    altered = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "altered"))
    (altered / "model.onnx").write_bytes(b"another model")
    places = {
        "tmp": tmp_path,
        "altered": altered,
        "csv": csv_file,
        "key": write_key(tmp_path / "key"),
        "onnx": bundles["onnx fp32"].path,
        "openvino": bundles["openvino fp32"].path,
        "tensorrt": bundles["tensorrt fp16"].path,
    }
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    done = in_process(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 2
    said = done.stderr
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
    assert "Traceback" not in said
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_a_failed_parity_is_exit_code_one(bundles: dict[str, Bundle], tmp_path: Path, in_process: Command) -> None:
    """A bundle whose model was exchanged, with hashes made to match, still loads: agreement shows it."""
    copy = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    import onnx
    from onnx import numpy_helper

    model = onnx.load(copy / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, copy / "model.onnx")
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = {
        "sha256": sha256_of(copy / "model.onnx"),
        "bytes": (copy / "model.onnx").stat().st_size,
    }
    (copy / MANIFEST).write_text(json.dumps(manifest))
    out = tmp_path / "out.json"
    done = in_process(
        "fer-bench", "--runtime", "onnxruntime", "--model", copy, "--queries", 32, "--seconds", 0, "--json", out
    )
    assert json.loads(out.read_text())["results"][0]["agreement"] < 0.9
    assert done.returncode == 1, done.stderr
    assert "departs from the reference" in done.stderr


def test_only_bundles_of_a_trusted_signer_are_measured_where_that_is_asked(
    bundles: dict[str, Bundle], tmp_path: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, trusted, out = write_key(tmp_path / "alice"), tmp_path / "trusted_keys", tmp_path / "out.json"
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(trusted))
    build = tmp_path / "build"
    copies = [
        Path(shutil.copytree(bundles[name].path, build / bundles[name].path.name))
        for name in ("onnx fp32", "openvino fp32")
    ]
    measure = ("fer-bench", "--runtime", "onnxruntime", "--runtime", "openvino", "--model", build, "--json", out)

    def refused(complaint: str) -> None:
        done = in_process(*measure, "--require-signature")
        assert done.returncode == 2
        assert complaint in done.stderr.strip().splitlines()[-1]
        assert not out.exists()

    signed = in_process("fer-export", "--sign", key, "--model", copies[0])
    assert (signed.returncode, signed.stdout) == (0, f"{copies[0]}\n")
    refused("not among the trusted keys")
    trusted.write_text(public_of(key).read_text())
    refused(f"{copies[1]}: not signed; sign it with fer-export")
    assert in_process("fer-export", "--sign", key, "--model", copies[0], "--model", copies[1]).returncode == 0
    for asked, names in ((["--require-signature"], {"alice"}), ([], {None})):
        done = in_process(*measure, "--queries", 32, "--seconds", 0, *asked)
        assert done.returncode == 0, done.stderr
        rows = json.loads(out.read_text())["results"]
        assert len(rows) == 3
        assert {row["signed_by"] for row in rows} == names
        out.unlink()
    manifest = (copies[1] / MANIFEST).read_text()
    (copies[1] / MANIFEST).write_text(manifest.replace('"crop": 1.0', '"crop": 0.9'))
    assert (copies[1] / MANIFEST).read_text() != manifest
    refused("the signature is not of this manifest.json")


def test_an_export_of_every_target_is_signed(
    checkpoint: Path, csv_file: Path, tmp_path: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_key(tmp_path / "alice")
    monkeypatch.setenv("FER_TRUSTED_KEYS", str(public_of(key)))
    source = ("--checkpoint", checkpoint, "--data", csv_file)
    done = in_process("fer-export", "--target", "all", *source, "--out", tmp_path / "build", "--sign", key)
    assert done.returncode == 0, done.stderr
    assert [trusted_signer(Path(line)) for line in done.stdout.split()] == ["alice"] * len(TARGETS)
