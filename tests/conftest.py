"""Small and real: a net trained for seconds on drawn faces, exported once, used by every test that needs one."""

from __future__ import annotations

import cores  # noqa: F401

# isort: split
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

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
from filelock import FileLock

from fer_export.pipeline import Source
from fer_runtimes.bundle import Bundle, read_bundle
from fer_runtimes.data import Faces
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.files import whole_folder
from fer_runtimes.session import Options

# Longest first, and one that needs no bundle while another worker makes them. The rest follow as they are found.
FIRST = (
    *("benchmarks/test_gate.py", "export/test_zoo.py", "end_to_end/test_commands.py", "end_to_end/test_shipped.py"),
    *("benchmarks/test_deploy.py", "benchmarks/test_report.py", "export/test_export.py", "export/test_int8.py"),
    *("runtimes/test_mil.py", "benchmarks/test_bench.py", "benchmarks/test_modes.py", "benchmarks/test_history.py"),
)
FER2013 = Path(os.environ.get("FER2013", Path(__file__).parents[2] / "shared" / "data" / "fer2013.csv.xz"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which workers are given files (make test): a long one that came last would leave the others idle."""
    names = [f"{item.path.parent.name}/{item.path.name}" for item in items]
    places = {item: FIRST.index(name) if name in FIRST else len(FIRST) for item, name in zip(items, names, strict=True)}
    items.sort(key=places.__getitem__)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests parse and export into a cache of their own."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["FER_CACHE"] = str(path)
    return path


@pytest.fixture(autouse=True, scope="session")
def short_warm_up() -> Iterator[None]:
    """On a busy machine no figure settles, and to wait for it 10 s a runtime is for those who read the figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fer_bench.measure.SETTLE_S", 1.0)
        yield


@pytest.fixture(scope="session")
def faces() -> Faces:
    return drawn_faces(140, seed=5)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Fills a folder of a name, once for all workers: the first that asks makes it, the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        path = common / f"once-{name}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with whole_folder(path) as aside:
                    make(aside)
        return path

    return made


@pytest.fixture(scope="session")
def checkpoint(once: Once) -> Path:
    """A fer_mobileone_xs that has learnt the drawn faces a little: its BatchNorm statistics are real."""
    from fer_train.augment import Augment
    from fer_train.loop import LAST, train
    from fer_train.recipe import Recipe

    gentle = Augment(rotate=5, field=(0.9, 1.05), shift=0.05, light=0.1, erase=0)
    recipe = dataclasses.replace(
        Recipe(), model="fer_mobileone_xs", epochs=4, batch_size=16, lr=0.03, warmup=0.5, ema=0.9, augment=gentle
    )

    def make(out: Path) -> None:
        train(recipe, drawn_faces(700, seed=1, split="Training"), drawn_faces(140, seed=2), out)

    return once("run", make) / LAST


@pytest.fixture(scope="session")
def source(checkpoint: Path, once: Once) -> Source:
    """That checkpoint, folded, with its reference. Copy it before changing it."""
    from fer_export.pipeline import load_source

    # as many faces as the reference executor does in a second
    return _kept(once, "source", lambda: load_source(checkpoint, drawn_faces(160, seed=0)))


@pytest.fixture(scope="session")
def int8_source(source: Source, once: Once) -> Source:
    """The source with its INT8 graph. One of the 175 faces held out is more than half a point, so the budget is wider."""
    from fer_export.calibration import choose
    from fer_export.int8 import quantise_source

    def make() -> Source:
        calibration = choose(drawn_faces(700, seed=1, split="Training"), 70)
        return dataclasses.replace(source, quantised=quantise_source(source, calibration, max_drop=0.02))

    return _kept(once, "int8-source", make)


def cells() -> list[tuple[str, str]]:
    """Each target and precision of the table that this processor computes: OpenVINO has bf16 where the processor has."""
    import openvino

    from fer_export.targets import TARGETS

    bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    every = [(target, precision) for target, row in TARGETS.items() for precision in row.tolerances]
    return [cell for cell in every if cell[1] != "bf16" or bf16]


@pytest.fixture(scope="session")
def bundles(int8_source: Source, checkpoint: Path, once: Once) -> dict[str, Bundle]:
    """One bundle for each target and precision of ``cells``, and PyTorch's unfolded one. Copy one before changing it."""
    from fer_export.pipeline import bundle_name, export, load_source

    def make(out: Path) -> None:
        for target, precision in cells():
            export(int8_source, target, out, precision)
        export(load_source(checkpoint, drawn_faces(160, seed=0), folding=False), "pytorch", out)

    out, net = once("build", make), int8_source.checkpoint.model["name"]
    made = {
        f"{target} {precision}": read_bundle(out / bundle_name(net, target, precision, True))
        for target, precision in cells()
    }
    return made | {"pytorch unfolded": read_bundle(out / bundle_name(net, "pytorch", "fp32", False))}


@pytest.fixture(scope="session")
def measured(bundles: dict[str, Bundle], faces: Faces, once: Once) -> dict[str, Any]:
    """A result file: PyTorch, ONNX Runtime, and one that cannot run here. Copy it before changing it."""
    from fer_bench.bench import Job, bench

    jobs = [Job("pytorch", bundles["pytorch unfolded"]), Job("onnxruntime", bundles["onnx fp32"])]
    jobs.append(Job("openvino", None, "runtime openvino needs openvino"))

    def make(out: Path) -> None:
        results = bench(jobs, faces, Options(threads=1), 64, seconds=0.05)
        (out / "results.json").write_text(json.dumps(results))

    results: dict[str, Any] = json.loads((once("measured", make) / "results.json").read_text())
    return results


def _kept(once: Once, name: str, make: Callable[[], Source]) -> Source:
    """A source as all workers share it."""
    path = once(name, lambda out: (out / "source").write_bytes(pickle.dumps(make())))
    source: Source = pickle.loads((path / "source").read_bytes())
    return source


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
    """The real data set, where there is one."""
    if not FER2013.exists():
        pytest.skip("FER2013 is not here; name the file in the environment variable FER2013")
    return FER2013


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


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command's own main here, where what it imports is there already: torch alone takes longer than most commands do."""

    def run(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        (entry,) = entry_points(group="console_scripts", name=name)
        words = [name, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            entry.load()()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), *capfd.readouterr())

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
