"""FER2013 in the forms people have it, read with numpy alone.

Three forms: ``fer2013.csv`` (plain, .gz, .xz, .zip), ``icml_face_data.csv`` (the same columns in
another order, some with a space in front), and folders ``train/<class>/*.jpg``, ``test/<class>/*.jpg``.
A csv is parsed once and kept as memory-mapped arrays under a key made of the source's SHA-256.

FER2013: Goodfellow et al., "Challenges in Representation Learning", 2013 (arXiv 1307.0414).
FER+ votes: Barsoum et al., ICMI 2016 (arXiv 1608.01041).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fer_runtimes.errors import BadInput
from fer_runtimes.files import cache_dir, sha256_of, whole_folder
from fer_runtimes.labels import LABELS

SIDE = 48
PIXELS = SIDE * SIDE
TRAIN_SPLITS = ("Training", "train")
TEST_SPLITS = ("PublicTest", "test")
_CACHE_FORMAT = 1
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
# FER+ names its columns by noun; contempt, unknown and NF (no face) have no class of ours.
_VOTE_COLUMNS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


@dataclass(frozen=True)
class Faces:
    """One split of a data set.

    images: uint8 ``[N, 48, 48]``, grey 0..255 (often memory-mapped; do not write to it)
    labels: int64 ``[N]``, indices into ``LABELS``
    votes:  float32 ``[N, 7]``, FER+ votes per class, or None
    sha256: of the file or folder that they came from
    seen:   bool ``[N]``, which images stand in the training split too (``also_in_training``), or None if not looked for
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sha256: str
    votes: NDArray[np.float32] | None = None
    seen: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self) -> dict[str, object]:
        """What a result file records of its data."""
        return {"name": self.name, "split": self.split, "images": len(self), "sha256": self.sha256} | (
            {} if self.seen is None else {"also_in_training": int(self.seen.sum())}
        )


_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, csv.Error)


def load_faces(path: Path, splits: tuple[str, ...], votes: Path | None = None) -> Faces:
    """Reads the first of ``splits`` that ``path`` holds.

    Raises BadInput, naming file, row and cause, for anything that is not FER2013 in a known form.
    """
    if not path.exists():
        raise BadInput(
            f"{path}: no such file or folder; give fer2013.csv (plain, .gz, .xz, .zip) or a folder with train/ and test/"
        )
    images, labels, usage, digest = _read_folder(path) if path.is_dir() else _read_csv_cached(path)
    present = list(dict.fromkeys(usage.tolist()))
    split = next((name for name in splits if name in present), None)
    if split is None:
        raise BadInput(f"{path}: split {' or '.join(splits)} is empty; it has {', '.join(present)}")
    rows = np.flatnonzero(usage == split)
    contiguous = len(rows) == rows[-1] - rows[0] + 1
    chosen = slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows
    vote_counts = _read_votes(votes, split, len(rows)) if votes else None
    return Faces(_name_of(path), split, images[chosen], labels[chosen], digest, vote_counts)


def also_in_training(path: Path, faces: Faces) -> NDArray[np.bool_]:
    """Marks, bool ``[N]``, the images of ``faces`` that stand pixel for pixel in the training split of ``path`` too.

    FER2013 as published holds such copies (280 of PublicTest): a net may know them by heart.
    Nothing is marked where ``path`` has no training split, or ``faces`` are that split.
    """
    if faces.split in TRAIN_SPLITS:
        return np.zeros(len(faces), dtype=bool)
    try:
        training = load_faces(path, TRAIN_SPLITS).images
    except BadInput:
        return np.zeros(len(faces), dtype=bool)
    return copies(faces.images, training)


def copies(images: NDArray[np.uint8], of: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Marks, bool ``[N]``, the ``images`` that stand pixel for pixel in ``of`` too."""
    known = {image.tobytes() for image in of}
    return np.array([image.tobytes() in known for image in images], dtype=bool)


def _name_of(path: Path) -> str:
    return path.name.split(".")[0]


# --- csv -------------------------------------------------------------------------------------

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        members = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX")]
        if len(members) != 1:
            raise BadInput(f"{path}: holds {len(members)} csv files, expected one")
        return io.TextIOWrapper(archive.open(members[0]), encoding="utf-8", newline="")
    raw = _OPENERS.get(path.suffix, open)(path, "rb")
    return io.TextIOWrapper(raw, encoding="utf-8", newline="")


def _rows(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, values of the wanted columns); turns any damage into a BadInput."""
    try:
        with _open_text(path) as text:
            reader = csv.reader(text)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise BadInput(f"{path}: no column {', '.join(missing)}; found {', '.join(header)[:200] or 'nothing'}")
            order = [header.index(name) for name in wanted]
            for row in reader:
                if len(row) != len(header):
                    raise BadInput(
                        f"{path}, row {reader.line_num}: {len(row)} columns, expected {len(header)}; is the file cut short?"
                    )
                yield reader.line_num, [row[i] for i in order]
    except (*_DAMAGED, RuntimeError) as error:  # the last: a zip with a password
        raise BadInput(f"{path}: cannot be read to its end ({error}); is it truncated or of another format?") from error


def _pixels(text: str, path: Path, line: int) -> NDArray[np.uint8]:
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise BadInput(f"{path}, row {line}: a pixel is not a whole number") from None
    if len(values) != PIXELS:
        raise BadInput(f"{path}, row {line}: {len(values)} pixels, expected {PIXELS} ({SIDE}x{SIDE})")
    if values.min() < 0 or values.max() > 255:
        raise BadInput(
            f"{path}, row {line}: pixel value {values.min() if values.min() < 0 else values.max()} outside 0..255"
        )
    return values.astype(np.uint8)


def _read_csv(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]]:
    images, labels, usage = bytearray(), [], []
    for line, (emotion, pixels, split) in _rows(path, ("emotion", "pixels", "Usage")):
        if not emotion.strip().isdigit() or int(emotion) >= len(LABELS):
            raise BadInput(f"{path}, row {line}: unknown class {emotion!r}, expected 0..{len(LABELS) - 1}")
        images += _pixels(pixels, path, line).tobytes()
        labels.append(int(emotion))
        usage.append(split.strip())
    if not labels:
        raise BadInput(f"{path}: has a header and no rows")
    return np.frombuffer(bytes(images), np.uint8).reshape(-1, SIDE, SIDE), np.array(labels), np.array(usage)


def _read_csv_cached(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], str]:
    digest = sha256_of(path)
    kept = cache_dir() / "data" / f"{digest[:32]}-{_CACHE_FORMAT}"
    if not kept.is_dir():
        arrays = dict(zip(("images", "labels", "usage"), _read_csv(path), strict=True))
        with whole_folder(kept) as aside:
            for name, array in arrays.items():
                np.save(aside / f"{name}.npy", np.asarray(array))
    return (
        np.load(kept / "images.npy", mmap_mode="r"),
        np.load(kept / "labels.npy"),
        np.load(kept / "usage.npy"),
        digest,
    )


def _read_votes(path: Path, split: str, count: int) -> NDArray[np.float32]:
    """FER+ rows stand in the order of fer2013.csv, so the k-th row of a split is its k-th image."""
    if not path.exists():
        raise BadInput(f"{path}: no such file; FER+ votes are in fer2013new.csv")
    votes = []
    for line, (usage, *values) in _rows(path, ("Usage", *_VOTE_COLUMNS)):
        if usage.strip() == split:
            try:
                votes.append([float(value) for value in values])
            except ValueError:
                raise BadInput(f"{path}, row {line}: a vote is not a number") from None
    if len(votes) != count:
        raise BadInput(
            f"{path}: {len(votes)} rows of {split}, expected {count}; votes and images do not belong together"
        )
    return np.array(votes, dtype=np.float32)


# --- folders ---------------------------------------------------------------------------------


def _read_folder(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_], str]:
    images, labels, usage, digest = [], [], [], hashlib.sha256()
    for split in (TRAIN_SPLITS[1], TEST_SPLITS[1]):
        for folder in sorted(one for one in (path / split).glob("*/") if one.is_dir()):  # 3.10 gives files too
            if folder.name not in LABELS:
                raise BadInput(f"{folder}: unknown class {folder.name!r}, expected one of {', '.join(LABELS)}")
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() not in _IMAGE_SUFFIXES:
                    continue
                raw = file.read_bytes()
                digest.update(str(file.relative_to(path)).encode() + b"\0" + raw)
                images.append(_decode(raw, file))
                labels.append(LABELS.index(folder.name))
                usage.append(split)
    if not images:
        raise BadInput(f"{path}: no images found; expected train/<class>/*.jpg and test/<class>/*.jpg")
    return np.stack(images), np.array(labels), np.array(usage), digest.hexdigest()


def _decode(raw: bytes, file: Path) -> NDArray[np.uint8]:
    try:
        image = np.asarray(Image.open(io.BytesIO(raw)).convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"{file}: not a readable image ({error})") from error
    if image.shape != (SIDE, SIDE):
        raise BadInput(f"{file}: {image.shape[1]}x{image.shape[0]} pixels, expected {SIDE}x{SIDE}")
    return image
