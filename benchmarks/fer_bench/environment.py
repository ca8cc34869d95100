"""Where a figure was made: without this it means little."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from fer_runtimes import board, cpu
from fer_runtimes.console import usable_cores
from fer_runtimes.versions import installed_versions


def environment() -> dict[str, Any]:
    """Machine, system, cores, versions and board, as plain values."""
    return {
        "host": platform.node(),
        "cpu": _cpu(),
        "cores": usable_cores(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": installed_versions(),
        "board": board.describe(),
    }


def _cpu() -> str:
    """The processor's own name where the system tells it, with the vector extensions that decide int8 and bf16 speed."""
    known = cpu.flags()
    fast = [flag for flag in ("avx2", "avx512f", *cpu.VNNI, "amx_int8", "amx_bf16", "asimddp") if flag in known]
    return " ".join([cpu.name(), *([f"({', '.join(fast)})"] if fast else [])])


def _commit() -> str | None:
    """The commit of the source tree this runs from, marked if changed; None for an installed wheel."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        found = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if tracked.returncode == 0 and found.returncode == 0 else None
