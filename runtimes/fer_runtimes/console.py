"""What the three commands share: one-line errors, exit codes, and the default number of threads."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fer_runtimes.errors import BadInput, FerError

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer) -> None:
    """Runs a command: a FerError, or a file that cannot be read or written, becomes one line on stderr and an exit code."""
    try:
        app()
    except FerError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(FerError.exit_code)


def usable_cores() -> int:
    """Cores that this process may run on (affinity, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def none_before(context: typer.Context) -> None:
    """Refuses options in front of another command, where nobody would heed them."""
    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise BadInput(f"options stand before {name}, which does not heed them; give them after it")
