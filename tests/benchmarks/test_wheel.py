"""The wheel for a board: a real one, the same each time, without what needs torch."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fer_bench.deploy.wheel import build_device_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_device_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_is_the_same_each_time(wheel: Path, tmp_path: Path) -> None:
    assert build_device_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    assert {entry.date_time for entry in zipfile.ZipFile(wheel).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_it_holds_what_a_board_runs_and_nothing_of_training(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"fer_bench/cli.py", "fer_runtimes/board.py", "fer_export/cli.py", "fer_runtimes/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith("fer_train") or "__pycache__" in name or name.endswith(".pt")]
    assert wheel.stat().st_size < 1_000_000


def test_its_record_names_every_file_by_hash_and_size(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
    assert set(rows) == set(archive.namelist())
    assert rows.pop(record) == ["", ""]
    for name, (digest, size) in rows.items():
        data = archive.read(name)
        wanted = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={wanted}", str(len(data)))


def test_it_installs_with_its_commands_and_extras(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", f"{wheel}[onnx]"]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import fer_runtimes, fer_bench, fer_export\n"
        "from importlib.metadata import distribution, requires\n"
        "from importlib.util import find_spec\n"
        "print(find_spec('fer_train'), find_spec('torch'), sorted(p.name for p in distribution('fer-edge').entry_points))\n"
        "print([need for need in requires('fer-edge') if 'onnxruntime>=' in need])\n"
    )
    shown = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env={}
    ).stdout
    modules, needs = shown.splitlines()
    assert modules == "None None ['fer-bench', 'fer-deploy', 'fer-export']"
    assert "extra == 'onnx'" in needs
    checked = subprocess.run(
        [python, "-m", "pip", "show", "--files", "fer-edge"], capture_output=True, text=True, check=True
    )
    assert "fer_bench/deploy/far_side.py" in checked.stdout
