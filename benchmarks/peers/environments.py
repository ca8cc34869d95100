"""Where each peer runs: environments of their own under the cache, made from PyPI and npm when first needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from fer_runtimes.errors import NotAvailable
from fer_runtimes.files import cache_dir
from peers.table import BESIDE, NODE, ON_BESIDE, ON_TENSORFLOW, TENSORFLOW, Peer

HERE = Path(__file__).parent
ROOMS = (HERE.parent, HERE.parents[1] / "runtimes")
READY = "ready"


@dataclass(frozen=True)
class Launch:
    """How to start a peer's process. command: what precedes the job; environment: variables; opens: what the adapter is given."""

    command: tuple[str, ...]
    environment: dict[str, str]
    opens: str


class Environments:
    """Makes what a peer needs; each environment once, in a folder named after its packages and their versions."""

    def __init__(self, weights: Path | None, say: Callable[[str], None] = lambda _: None) -> None:
        self._weights, self._say = weights, say

    def launch(self, peer: Peer) -> Launch:
        """Raises NotAvailable, in one line, if the peer's environment or weights cannot be had here."""
        kind, _, name = peer.opens.partition(":")
        opens = SOURCES[kind](self, name)
        command, environment = LAUNCHERS[peer.environment](self)
        return Launch(command, environment, opens)

    # --- environments -----------------------------------------------------------------------

    def own(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """This project's own environment."""
        return (sys.executable, "-m", "peers.worker"), {"PYTHONPATH": _path(*ROOMS, os.environ.get("PYTHONPATH"))}

    def in_beside(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Packages beside this project's own: the same ONNX Runtime and PyTorch as ours run on."""
        command, _ = self.own()
        return command, {"PYTHONPATH": _path(*ROOMS, self.beside, os.environ.get("PYTHONPATH"))}

    def in_tensorflow(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """A virtual environment with TensorFlow."""
        python = str(self.tensorflow / "bin" / "python")
        return (python, "-m", "peers.worker"), {"PYTHONPATH": _path(*ROOMS), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def in_node(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """An npm folder."""
        return (str(_program("node")), str(HERE / "worker.mjs")), {}

    @cached_property
    def beside(self) -> Path:
        def make(folder: Path) -> None:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
            _run(*pip, *BESIDE)
            _run(*pip, "--no-deps", *ON_BESIDE)

        return self._made("beside", (*BESIDE, *ON_BESIDE), make)

    @cached_property
    def tensorflow(self) -> Path:
        def make(folder: Path) -> None:
            _run(sys.executable, "-m", "venv", str(folder))
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            _run(*pip, *TENSORFLOW)
            _run(*pip, "--no-deps", *ON_TENSORFLOW)

        return self._made("tensorflow", (sys.version, *TENSORFLOW, *ON_TENSORFLOW), make)

    @cached_property
    def node(self) -> Path:
        def make(folder: Path) -> None:
            (folder / "package.json").write_text('{"name": "peers", "private": true}\n')
            # scripts stay off: what a package would fetch or build while it installs is not needed
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", "--loglevel=error"]
            _run(str(_program("npm")), "install", "--prefix", str(folder), *options, *NODE)

        return self._made("node", NODE, make)

    @cached_property
    def converted(self) -> Path:
        def make(folder: Path) -> None:
            python = str(self.tensorflow / "bin" / "python")
            variables = {"PYTHONPATH": _path(*ROOMS), "TF_CPP_MIN_LOG_LEVEL": "3"}
            _run(python, "-m", "peers.convert", str(self.node), str(folder), environment=variables)

        converter = (HERE / "convert.py").read_text(encoding="utf-8")
        return self._made("converted", (*TENSORFLOW, *ON_TENSORFLOW, *NODE, converter), make)

    def _made(self, name: str, packages: tuple[str, ...], make: Callable[[Path], None]) -> Path:
        """The folder of these very packages; a half-made one, without its mark, is made again."""
        folder = cache_dir() / "peers" / f"{name}-{sha256(repr(packages).encode()).hexdigest()[:12]}"
        if not (folder / READY).exists():
            self._say(f"making the environment {name} in {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                make(folder)
            except NotAvailable as error:
                raise NotAvailable(f"environment {name} cannot be made: {error}") from error
            (folder / READY).touch()
        return folder

    # --- what adapters open -----------------------------------------------------------------

    def bundle(self, target: str) -> str:
        """The shipped checkpoint, exported on the fly and cached."""
        from fer_export.pipeline import BundleCache, find_checkpoint

        return str(BundleCache(find_checkpoint(None), self._say).bundle(target).path)

    def weights(self, name: str) -> str:
        """A file that the peer's package fetches when it runs; taken from the user's folder."""
        if self._weights is None or not (self._weights / name).is_file():
            raise NotAvailable(
                f"not measured: its package fetches the weights at run time; put {name} into the folder of --weights-dir"
            )
        return str((self._weights / name).resolve())


LAUNCHERS: dict[str, Callable[[Environments], tuple[tuple[str, ...], dict[str, str]]]] = {
    "own": Environments.own,
    "beside": Environments.in_beside,
    "tensorflow": Environments.in_tensorflow,
    "node": Environments.in_node,
}
SOURCES: dict[str, Callable[[Environments, str], str]] = {
    "bundle": Environments.bundle,
    "weights": Environments.weights,
    "converted": lambda environments, name: str(environments.converted / name),
    "npm": lambda environments, name: str(environments.node),
    "package": lambda environments, name: name,
    "net": lambda environments, name: name,
}


def _path(*entries: Path | str | None) -> str:
    return os.pathsep.join(str(entry) for entry in entries if entry)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotAvailable(f"{name} is not installed here; install Node.js 18 or newer with npm")
    return found


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}))
    if done.returncode:
        raise NotAvailable(last_line(done.stderr) or f"{Path(command[0]).name} failed")


def last_line(text: str) -> str:
    """The last line that says something: of a Python traceback, the error; of Node's and npm's output, the first with "Error"."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or line.startswith(("ERROR:", "npm error"))]
    return (errors or lines or [""])[-1][:300]
