"""What runs on the board: this file is sent over ssh and executed by the board's own python3.

Standard library alone. Standard input is this file's text, a line of JSON (the task and its
values), then the task's bytes; standard output is one line of JSON at the end. What goes wrong is one
line on standard error. When standard input ends early the connection is gone, and whatever was
started here is stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

READY = "fer-deploy.json"  # in the environment: what it was made from, written when it is complete
INCOMING = ".incoming-"
RELEASE = Path("/etc/nv_tegra_release")
# Jetson Linux: what its CUDA driver can load. JetPack 6 has CUDA 12, and pip would take the newest bindings.
FITTING = {"# R36": {"tensorrt": "cuda-bindings<13"}}


def check(root: Path, names: list[str]) -> dict[str, Any]:
    """What the board is, what it has room for, and which of ``names`` lie there, whole."""
    standing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(standing, os.W_OK):
        sys.exit(f"{standing} cannot be written to; choose another --remote-dir")
    try:
        model = Path("/proc/device-tree/model").read_text().strip("\0\n")
    except OSError:
        model = platform.system()
    ready = root / "venv" / READY
    return {
        "root": str(root),
        "model": model,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "free": shutil.disk_usage(standing).free,
        "can_make_environments": find_spec("venv") is not None and find_spec("ensurepip") is not None,
        "jetson": RELEASE.exists(),
        "tensorrt": find_spec("tensorrt") is not None,
        "present": [name for name in names if (root / name).is_dir()],
        "environment": json.loads(ready.read_text()) if ready.exists() else None,
    }


def receive(root: Path, name: str, files: list[dict[str, Any]]) -> None:
    """Takes files from standard input into ``root/name``, which appears when every hash is right, or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(INCOMING + "*"):  # by a board that lost power; a younger one may be another's copy, under way
        if time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=INCOMING, dir=root))
    try:
        for file in files:
            path = aside / PurePosixPath(file["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            left_over, digest = file["bytes"], hashlib.sha256()
            with path.open("wb") as out:
                while left_over:
                    chunk = sys.stdin.buffer.read(min(left_over, 1 << 16))
                    if not chunk:
                        sys.exit(f"{name}: the copy was cut short; nothing of it is kept")
                    out.write(chunk)
                    digest.update(chunk)
                    left_over -= len(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != file["sha256"]:
                sys.exit(f"{name}: {file['path']} arrived altered (SHA-256 differs); nothing of it is kept")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(root / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def install(root: Path, wheel: str, wheels: str | None, recipe: dict[str, Any]) -> None:
    """Makes ``root/venv``, which sees the system's packages (JetPack's tensorrt), and installs the wheel with its extras."""
    home = root / "venv"
    ready = home / READY
    if not ready.exists() or json.loads(ready.read_text())["python"] != recipe["python"]:
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", "--system-site-packages", str(home)])
    ready.unlink(missing_ok=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check"]
    # The version need not change when the code does: what lies there is taken out first.
    _run([*pip, "uninstall", "--yes", "--quiet", "fer-edge"])
    extras = f"[{','.join(recipe['extras'])}]" if recipe["extras"] else ""
    only = ["--no-index", "--find-links", wheels] if wheels else []
    # Below the root, not by its whole path: pip reads a semicolon or a bracket in that as its own syntax.
    fitting = FITTING.get(RELEASE.read_text()[:5], {}) if RELEASE.exists() else {}
    bounds = [bound for extra, bound in fitting.items() if extra in recipe["extras"]]
    _run([*pip, "install", "--quiet", *only, f"./{wheel}{extras}", *bounds], cwd=root)
    ready.with_suffix(".new").write_text(json.dumps(recipe))
    ready.with_suffix(".new").replace(ready)


def bench(root: Path, arguments: list[str]) -> dict[str, Any]:
    """Runs fer-bench, whose messages go to standard error as they come; returns its exit code and what it wrote."""
    out = root / "results.json"
    out.unlink(missing_ok=True)
    # Not bin/fer-bench, whose first line is a shell's where the path holds a space, and breaks at a quote in it.
    program = [str(root / "venv" / "bin" / "python"), "-c", "from fer_bench.cli import main; main()"]
    code = _wait([*program, *arguments, "--json", str(out)], stdout=subprocess.DEVNULL)
    return {"code": code, "results": out.read_text(encoding="utf-8") if out.exists() else None}


def _run(command: list[str], **options: Any) -> None:
    """Runs quietly; a failure is told by the last error that the program wrote."""
    with tempfile.TemporaryFile("w+") as log:
        code = _wait(command, stdout=log, stderr=subprocess.STDOUT, **options)
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    if code:
        # pip's own mishaps are "ERROR: Exception:" and a traceback, whose last line tells
        errors = [line for line in lines if line.startswith("ERROR") and not line.endswith("Exception:")]
        sys.exit(f"{command[2]} failed: {(errors or lines or [f'exit code {code}'])[-1]}")


def _wait(command: list[str], **options: Any) -> int:
    """Runs a program to its end; should standard input end first, it is stopped with all that it started."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)

    def watch() -> None:
        while os.read(0, 1 << 16):  # not sys.stdin, whose lock a thread must not hold when Python ends
            pass
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


def main() -> None:
    values = json.loads(sys.stdin.buffer.readline())
    tasks: dict[str, Callable[..., Any]] = {"check": check, "receive": receive, "install": install, "bench": bench}
    task = tasks[values.pop("task")]
    root = Path.home() / Path(values.pop("root")).expanduser()
    try:
        print(json.dumps(task(root, **values)))
    except OSError as error:
        sys.exit(f"{error.filename or root}: {error.strerror or error}")


if __name__ == "__main__":
    main()
