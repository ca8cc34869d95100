"""What can go wrong, and the exit code that each kind of failure has.

    FerError
    ├── BadInput       exit 2   the thing given is not what it should be
    ├── NotAvailable   exit 2   this machine or this build cannot do what was asked
    └── CheckFailed    exit 1   a check, gate or parity test ran and did not pass

Every message is one line: the thing, what was found, what was expected, how to mend it.
"""


class FerError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 2


class BadInput(FerError):
    """A file, option or value is not what it should be."""


class NotAvailable(FerError):
    """A runtime, device, precision or target cannot be had here."""


class CheckFailed(FerError):
    """A check ran to its end and its answer is no."""

    exit_code = 1
