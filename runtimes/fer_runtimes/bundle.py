"""The bundle: a folder with a model and a manifest that says what it is.

``manifest.json`` names every file with its size and SHA-256; both are checked whenever a bundle is
read, before any engine sees the model. A bundle is data: reading one never runs code from it.
``reference.npz`` holds images and what the unfolded net answers to them in float64, so that a
device without torch can check its own engine.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import BadInput
from fer_runtimes.files import sha256_of, whole_folder
from fer_runtimes.labels import LABELS
from fer_runtimes.temperature import check_record

FORMAT = 1
_LARGEST_SIDE = 4096
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"  # fer_runtimes.signing; over the manifest, so not among the files that it names
REFERENCE = "reference.npz"


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; ``docs/bundle.md`` describes each key."""

    name: str
    target: str
    precision: str
    input: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    labels: tuple[str, ...] = LABELS
    output: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    build: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    probabilities: dict[str, Any] | None = None
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Side of the square input, pixels."""
        return int(self.input["shape"][-1])

    @property
    def crop(self) -> float:
        """Share of a face's side that the net is shown (``prepare``)."""
        return float(self.input["crop"])

    @property
    def temperature(self) -> float:
        """What logits are divided by on their way to probabilities; 1 where none was fitted."""
        return 1.0 if self.probabilities is None else float(self.probabilities["temperature"])


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files have been checked against its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_bytes(self) -> int:
        """Size of the model's own files, without the reference images."""
        return sum(int(entry["bytes"]) for name, entry in self.manifest.files.items() if name != REFERENCE)

    @property
    def digest(self) -> str:
        """SHA-256 over the names and hashes of all files: one value for the very artefact."""
        listing = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(self.manifest.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()

    def file(self, suffix: str) -> Path:
        """The one model file that ends with ``suffix``. Raises BadInput if there is none, or several."""
        found = [name for name in self.manifest.files if name.endswith(suffix)]
        if len(found) != 1:
            raise BadInput(f"{self.path}: {len(found)} files end with {suffix}, expected one")
        return self.path / found[0]


@dataclass(frozen=True)
class Reference:
    """Truth for parity: the unfolded net's answers.

    images: uint8 ``[M, 1, S, S]``; logits: float64 ``[M, 7]`` computed in float64
    logits_fp32: float32 ``[M, 7]``, what PyTorch gives in float32: its error is the unit of error
    kinds: ``[M]``, what each image is ("real", "drawn", "constant", "smallest margin", ...)
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float64]
    logits_fp32: NDArray[np.float32]
    kinds: NDArray[np.str_]

    def save(self, folder: Path) -> None:
        """Writes ``reference.npz``."""
        np.savez_compressed(folder / REFERENCE, **{str(key): value for key, value in vars(self).items()})


@contextmanager
def writing_bundle(path: Path) -> Iterator[Path]:
    """Yields a folder to fill; it becomes ``path``, whole, if the block succeeds, else vanishes."""
    if path.exists() and not (path / MANIFEST).is_file():
        raise BadInput(f"{path}: exists and is not a bundle; it is left alone, choose another --out")
    with whole_folder(path) as aside:
        yield aside


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Hashes every file of ``folder`` and writes the manifest beside them; a signature of an earlier one is dropped."""
    (folder / SIGNATURE).unlink(missing_ok=True)
    files = {
        file.relative_to(folder).as_posix(): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    manifest = replace(manifest, files=files)
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return Bundle(folder, manifest)


def read_bundle(path: Path) -> Bundle:
    """Reads a bundle and checks every file's size and hash.

    Raises BadInput if it is not a bundle, is of another format, has other classes, or was altered.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BadInput(f"{path}: not a bundle, it has no {MANIFEST}; make one with fer-export")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BadInput(f"{path}: bundle format {content['format']}, this version reads {FORMAT}")
        manifest = Manifest(**{**content, "labels": tuple(content["labels"])})
        size, _ = manifest.size, manifest.crop
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.files.items()}
        _check_kinds(manifest)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadInput(f"{file}: not a manifest ({type(error).__name__}: {error}); export the bundle again") from error
    if manifest.labels != LABELS:
        raise BadInput(f"{path}: classes {', '.join(map(str, manifest.labels))}, expected {', '.join(LABELS)}")
    if manifest.input.get("shape") != ["N", 1, size, size] or manifest.input.get("dtype") != "uint8":
        raise BadInput(f"{path}: input {manifest.input}, expected uint8 [N, 1, S, S]")
    check_record(manifest.probabilities, str(file))
    for name, (count, digest) in files.items():
        _check_file(path, name, count, digest)
    return Bundle(path, manifest)


def read_reference(bundle: Bundle) -> Reference:
    """The truth for parity that travels with a bundle. Raises BadInput if it is missing or damaged."""
    try:
        with np.load(bundle.path / REFERENCE, allow_pickle=False) as arrays:
            return Reference(**{name: arrays[name] for name in Reference.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{bundle.path / REFERENCE}: cannot be read ({error}); export the bundle again") from error


def _check_kinds(manifest: Manifest) -> None:
    """Raises TypeError or ValueError for what would fail only after hours of measuring."""
    if not isinstance(manifest.source["folded"], bool) or not isinstance(manifest.source["checkpoint_sha256"], str):
        raise TypeError("source does not say whether the net is folded, or of which checkpoint it is")
    if not 1 <= manifest.size <= _LARGEST_SIDE:
        raise ValueError(f"an input of {manifest.size} pixels")
    bound = (manifest.parity or {}).get("tolerance") or {}
    if not all(value is None or isinstance(value, (int, float)) for value in bound.values()):
        raise TypeError("a tolerance that is no number")
    if bound.keys() and bound.keys() != {"error_ratio", "mean_kl", "flip_margin"}:
        raise ValueError(f"a tolerance of {', '.join(map(str, bound))}")


def _check_file(path: Path, name: str, count: int, digest: str) -> None:
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or ":" in name:
        raise BadInput(f"{path}: its manifest names {name!r}, which lies outside the bundle; refused")
    file = path / name
    if not file.is_file():
        raise BadInput(f"{path}: {name} is missing; export the bundle again")
    if file.stat().st_size != count or sha256_of(file) != digest:
        raise BadInput(
            f"{file}: its contents are not those that the manifest names (SHA-256 differs); export the bundle again or fetch it again"
        )
