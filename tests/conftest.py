"""Small and real: a net trained for seconds on drawn faces, exported once, used by every test that needs one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fer_export.pipeline import Source
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces
from fer_runtimes.drawn import drawn_faces

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Gives each of several workers (pytest-xdist) a core of its own: pools of threads that share one slow each other many times."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests parse and export into a cache of their own."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["FER_CACHE"] = str(path)
    return path


@pytest.fixture(scope="session")
def faces() -> Faces:
    return drawn_faces(140, seed=5)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fer_mobileone_xs that has learnt the drawn faces a little: its BatchNorm statistics are real."""
    from fer_train.augment import Augment
    from fer_train.loop import LAST, train
    from fer_train.recipe import Recipe

    out = tmp_path_factory.mktemp("run")
    gentle = Augment(rotate=5, field=(0.9, 1.05), shift=0.05, light=0.1, erase=0)
    recipe = dataclasses.replace(
        Recipe(), model="fer_mobileone_xs", epochs=4, batch_size=16, lr=0.03, warmup=0.5, ema=0.9, augment=gentle
    )
    train(recipe, drawn_faces(700, seed=1, split="Training"), drawn_faces(140, seed=2), out)
    return out / LAST


@pytest.fixture(scope="session")
def source(checkpoint: Path) -> Source:
    """That checkpoint, folded, with its reference. Copy it before changing it."""
    from fer_export.pipeline import load_source

    return load_source(checkpoint, drawn_faces(160, seed=0))  # as many as the reference executor does in a second


@pytest.fixture(scope="session")
def int8_source(source: Source) -> Source:
    """The source with its INT8 graph. One of the 175 faces held out is more than half a point, so the budget is wider."""
    from fer_export.calibration import choose
    from fer_export.int8 import quantise_source

    calibration = choose(drawn_faces(700, seed=1, split="Training"), 70)
    return dataclasses.replace(source, quantised=quantise_source(source, calibration, max_drop=0.02))


@pytest.fixture(scope="session")
def bundles(int8_source: Source, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One bundle for each target and precision of the table, and PyTorch's unfolded one."""
    from fer_export.pipeline import export, load_source
    from fer_export.targets import TARGETS

    out = tmp_path_factory.mktemp("build")
    made = {
        f"{target} {precision}": export(int8_source, target, out, precision)
        for target, row in TARGETS.items()
        for precision in row.tolerances
    }
    made["pytorch unfolded"] = export(load_source(checkpoint, drawn_faces(160, seed=0), folding=False), "pytorch", out)
    return made


@pytest.fixture(scope="session")
def csv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in the layout of fer2013.csv: 70 Training rows, 70 PublicTest rows."""
    path = tmp_path_factory.mktemp("data") / "fer2013.csv"
    path.write_text(as_csv([drawn_faces(70, 3, "Training"), drawn_faces(70, 4)]))
    return path


def as_csv(parts: list[Faces], columns: str = "emotion,pixels,Usage") -> str:
    lines = [columns]
    for part in parts:
        for label, image in zip(part.labels, part.images, strict=True):
            values = {"emotion": str(label), "pixels": " ".join(map(str, image.ravel())), "Usage": part.split}
            lines.append(",".join(values[name.strip()] for name in columns.split(",")))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """The real data set, where a checkout has it beside it."""
    path = SHARED / "fer2013.csv.xz"
    if not path.exists():
        pytest.skip("FER2013 is not here")
    return path


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs one of the three commands as a user does, in a process of its own."""

    def run(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / name
        return subprocess.run(
            [str(program), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300
        )

    return run


def random_images(count: int, size: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, size, size), dtype=np.uint8)


def write_key(
    path: Path,
    key: PrivateKeyTypes | None = None,
    form: PrivateFormat = PrivateFormat.OpenSSH,
    encryption: KeySerializationEncryption | None = None,
) -> Path:
    """A private key in a file, by default a new ed25519 one; beside it the public one as OpenSSH writes it, the file's name as comment."""
    key = key or Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()))
    if not isinstance(key, Ed448PrivateKey):  # OpenSSH has none
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        public_of(path).write_text(f"{line} {path.name}\n")
    return path


def public_of(key: Path) -> Path:
    return key.with_name(key.name + ".pub")
