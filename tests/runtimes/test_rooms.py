"""What goes on a board must run there: an environment that holds the base dependencies and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fer_runtimes.bundle import Bundle
from fer_runtimes.signing import sign_bundle

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxslim", "openvino", "coremltools", "cryptography"),
    *("tensorrt", "polygraphy", "cuda"),
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this package's base dependencies, linked from the test environment, and no others."""
    home = tmp_path_factory.mktemp("board")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    waiting, done = ["fer-edge"], set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        needs = [need for need in requires(name) or [] if "extra ==" not in need and "python_version <" not in need]
        waiting += [
            re.split(r"[^A-Za-z0-9._-]", need)[0]
            for need in needs
            if "sys_platform" not in need and "platform_system" not in need
        ]
        if name != "fer-edge":
            for top in {Path(str(file)).parts[0] for file in distribution(name).files or []}:
                if not top.startswith((".", "__pycache__")) and not (site / top).exists():
                    (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    (site / "fer.pth").write_text("\n".join(str(ROOT / room) for room in ("train", "export", "runtimes", "benchmarks")))
    return home / "bin" / "python"


def run(board: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(board), "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_the_board_has_no_heavy_package(board: Path) -> None:
    for name in HEAVY:
        assert run(board, f"import {name}").returncode != 0


@pytest.mark.parametrize("package", ["fer_train", "fer_export", "fer_bench", "fer_bench.deploy"])
def test_every_help_works_on_a_board(board: Path, package: str) -> None:
    shown = run(board, f"from {package}.cli import main; main()", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Examples" in shown.stdout


def test_every_module_of_the_device_side_imports_on_a_board(board: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT / room).with_suffix("").parts)
        for room in ("runtimes", "benchmarks")
        for path in (ROOT / room).glob("fer_*/**/*.py")
        if path.name != "__init__.py"
    ]
    assert len(modules) > 15
    done = run(board, "".join(f"import {module}\n" for module in modules))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["fer_train", "fer_export", "fer_bench", "fer_bench.deploy"])
def test_help_loads_nothing_heavy(package: str) -> None:
    code = (
        f"import sys; from {package}.cli import app; print([m for m in {(*HEAVY, 'numpy', 'PIL')} if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"
    )


def test_importing_the_runtimes_pulls_in_no_torch() -> None:
    code = "import sys, fer_runtimes.session, fer_runtimes.engines.ort, fer_runtimes.engines.ov, fer_runtimes.engines.pt; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip()
        == "False"
    )


def test_a_board_finishes_an_engine_without_torch_up_to_what_it_lacks(board: Path, bundles: dict[str, Bundle]) -> None:
    finish = ("from fer_export.cli import main; main()", "--target", "tensorrt", "--finish")
    done = run(board, *finish, str(bundles["tensorrt fp16"].path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: runtime tensorrt needs tensorrt, cuda.bindings, not installed here")
    assert len(done.stderr.splitlines()) == 1
    other = run(board, *finish, str(bundles["onnx fp32"].path))
    assert other.returncode == 2
    assert "is of target onnx, not tensorrt" in other.stderr


def test_a_board_without_engines_measures_the_harness_and_names_what_is_missing(
    board: Path, bundles: dict[str, Bundle]
) -> None:
    bench = "from fer_bench.cli import main\nif __name__ == '__main__': main()"
    path = str(bundles["onnx fp32"].path)
    null = run(board, bench, "--runtime", "null", "--model", path, "--queries", "32", "--seconds", "0")
    assert null.returncode == 0, null.stderr
    missing = run(board, bench, "--runtime", "onnxruntime", "--model", path)
    assert missing.returncode == 2
    assert missing.stderr.strip().endswith("pip install '.[onnx]' in fer-edge's checkout")
    assert "Traceback" not in missing.stderr


def test_a_board_without_cryptography_runs_a_signed_bundle_and_cannot_vouch_for_it(
    board: Path, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "copy"))
    bench = "from fer_bench.cli import main\nif __name__ == '__main__': main()"
    asked = ("--runtime", "null", "--model", str(copy), "--queries", "32", "--seconds", "0")
    unsigned = run(board, bench, *asked, "--require-signature")
    assert (unsigned.returncode, "not signed" in unsigned.stderr) == (2, True)
    sign_bundle(copy, Ed25519PrivateKey.generate())
    assert run(board, bench, *asked).returncode == 0
    needed = [run(board, bench, *asked, "--require-signature")]
    needed.append(run(board, "from fer_export.cli import main; main()", "--model", str(copy), "--sign", "key"))
    for refused in needed:
        assert refused.returncode == 2
        assert (
            refused.stderr
            == "error: signatures need cryptography, not installed here; pip install '.[sign]' in fer-edge's checkout\n"
        )
