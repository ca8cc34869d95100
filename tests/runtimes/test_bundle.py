from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_runtimes.bundle import MANIFEST, Bundle, read_bundle, read_reference, writing_bundle
from fer_runtimes.errors import BadInput


@pytest.fixture
def copy(bundles: dict[str, Bundle], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_a_bundle_reads_back_what_was_written(copy: Path, bundles: dict[str, Bundle]) -> None:
    assert read_bundle(copy).manifest == bundles["onnx fp32"].manifest
    assert read_bundle(copy).digest == bundles["onnx fp32"].digest


@pytest.mark.parametrize("name", ["model.onnx", "reference.npz"])
def test_one_altered_byte_is_refused(copy: Path, name: str) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(BadInput, match=f"{name}: its contents are not those"):
        read_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(BadInput, match=r"model\.onnx is missing"):
        read_bundle(copy)


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/model.onnx", "..\\model.onnx", "C:model.onnx"])
def test_a_manifest_that_reaches_outside_is_refused(copy: Path, name: str) -> None:
    edit(copy, files={name: {"sha256": "", "bytes": 0}})
    with pytest.raises(BadInput, match="lies outside the bundle"):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "bundle format 2"),
        ({"labels": ["cat", "dog"]}, "classes cat, dog"),
        ({"input": {"shape": ["N", 3, 48, 48], "dtype": "uint8", "crop": 1.0}}, "expected uint8"),
        ({"input": {}}, "not a manifest"),
        ({"surprise": 1}, "not a manifest"),
        ({"files": ["model.onnx"]}, "not a manifest"),
        ({"files": {"model.onnx": "x"}}, "not a manifest"),
        ({"files": {"model.onnx": {"sha256": ""}}}, "not a manifest"),
        ({"labels": [1, 2]}, "classes 1, 2"),
        ({"source": []}, "not a manifest"),
        ({"parity": {"tolerance": {"x": 1}}}, "not a manifest .*a tolerance of x"),
        ({"parity": {"tolerance": {"mean_kl": "1"}}}, "not a manifest .*no number"),
        (
            {"input": {"shape": ["N", 1, 10**9, 10**9], "dtype": "uint8", "crop": 1.0}},
            "not a manifest .*1000000000 pixels",
        ),
    ],
)
def test_a_manifest_of_another_kind_is_refused(copy: Path, change: dict[str, object], complaint: str) -> None:
    edit(copy, **change)
    with pytest.raises(BadInput, match=complaint):
        read_bundle(copy)


def test_a_manifest_cut_short_and_a_folder_without_one_are_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text((copy / MANIFEST).read_text()[:100])
    with pytest.raises(BadInput, match="not a manifest"):
        read_bundle(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(BadInput, match="not a bundle"):
        read_bundle(copy)
    (copy / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(BadInput, match="not a manifest"):
        read_bundle(copy)


def test_a_reference_that_holds_code_is_refused(bundles: dict[str, Bundle], copy: Path) -> None:
    np.savez(copy / "reference.npz", images=np.array([print], dtype=object))
    with pytest.raises(BadInput, match=r"reference\.npz: cannot be read"):
        read_reference(Bundle(copy, bundles["onnx fp32"].manifest))
    (copy / "reference.npz").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(BadInput, match=r"reference\.npz: cannot be read"):
        read_reference(Bundle(copy, bundles["onnx fp32"].manifest))


def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(copy: Path) -> None:
    before = (copy / MANIFEST).read_bytes()

    def fail() -> None:
        with writing_bundle(copy) as folder:
            (folder / "model.onnx").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert (copy / MANIFEST).read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_folder_that_is_not_a_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(BadInput, match="is not a bundle; it is left alone"), writing_bundle(tmp_path / "photos"):
        pass
