"""What the three commands share: one-line errors, exit codes, and the default number of threads."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fer_runtimes.errors import BadInput, FerError

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer) -> None:
    """Runs a command: a FerError, or a file that cannot be read or written, becomes one line on stderr and an exit code."""
    if sys.platform == "win32":
        print("error: there is no Windows version; use Linux, macOS, or WSL 2", file=sys.stderr)
        sys.exit(FerError.exit_code)
    try:
        app()
    except FerError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(FerError.exit_code)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may run on: by its affinity, and by its container's share of time (``docker run --cpus``)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _quota(cgroup) or cores)


def _quota(cgroup: Path) -> int | None:
    """Whole cores' worth of time that the container may take, at least 1; None without a limit."""
    try:
        if (file := cgroup / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return max(1, math.ceil(int(quota) / int(period))) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no limit
        return None


def none_before(context: typer.Context) -> None:
    """Refuses options in front of another command, where nobody would heed them."""
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise BadInput(f"options stand before {name}, which does not heed them; give them after it")
