"""One connection to a board through the system's own ssh, so that the user's config, agent and jump hosts work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

from fer_bench.deploy import far_side
from fer_runtimes.errors import BadInput, NotAvailable

# What ssh says, and what the user is told; the first that fits.
_COMPLAINTS = {
    "IDENTIFICATION HAS CHANGED": "its host key is not the one that known_hosts holds; if the board was flashed anew, remove the old key with ssh-keygen -R, else somebody may stand between",
    "Host key verification failed": "its host key is not known here, and none is accepted unseen; connect once by hand with ssh and compare the fingerprint",
    "Could not resolve hostname": "unknown host; check the name, or give it one in ~/.ssh/config",
    "Connection refused": "it refuses connections on that port; check the port, or run there: sudo apt install openssh-server",
    "timed out": "it does not answer; is it on, and on this network?",
    "No route to host": "it cannot be reached; is it on, and on this network?",
    "Permission denied": "it refuses the login; check the user's name, and give it your key with ssh-copy-id",
    "Too many authentication failures": "it refuses the login after too many keys; name one with IdentityFile and IdentitiesOnly in ~/.ssh/config",
}
# ssh takes the first value that it is given: these stand before the user's options and config, those after.
_FIRM = ["-oClearAllForwardings=yes", "-oForwardAgent=no", "-oForwardX11=no", "-oRemoteCommand=none"]
_MILD = ["-oConnectTimeout=15", "-oServerAliveInterval=15", "-oServerAliveCountMax=3"]
_OPENING_S = 90
_BOOTSTRAP = (
    "import sys; "
    'sys.version_info >= (3, 10) or sys.exit("its Python is %d.%d, 3.10 is needed; JetPack 6 brings it" % sys.version_info[:2]); '
    "exec(sys.stdin.buffer.read({size}))"
)


class Connection:
    """A login that is made once and carries every task after that.

    destination: ``user@host``, a name of ssh_config, or ``ssh://user@host:port``.
    root: the folder on the board that all tasks work in, below the home folder there unless absolute.
    options: passed on to ssh as they are, each one word (``-p2222``, ``-F./config``, ``-oUser=nvidia``).

    Raises BadInput for what is no address, NotAvailable where ssh does not get in.
    """

    def __init__(self, destination: str, root: str, options: Iterable[str] = ()) -> None:
        is_uri = destination.startswith("ssh://")
        host = (urlsplit(destination).hostname or "") if is_uri else destination.rpartition("@")[2]
        if not host or host.startswith("-") or destination.startswith("-") or not destination.isprintable():
            raise BadInput(f"{destination!r} is no board's address; expected user@host, or a name of ~/.ssh/config")
        self.board, self.destination, self.root = host, destination, root
        self._options = list(options)

    def __enter__(self) -> Connection:
        self._folder = tempfile.TemporaryDirectory(prefix="fer-")
        self._socket = str(Path(self._folder.name) / "s")
        terminal = sys.stdin.isatty()  # there ssh may ask for a passphrase, or show a new host's key: once, now
        manner = ["-oStrictHostKeyChecking=ask"] if terminal else ["-oStrictHostKeyChecking=yes", "-oBatchMode=yes"]
        with (Path(self._folder.name) / "said").open("w+", errors="replace") as said:
            options = [*manner, *_FIRM, *self._options, *_MILD, "-M", "-S", self._socket]
            # cat ends with its input, and the login with cat: even where this process is killed, none is left open
            self._master = _ssh(
                [*options, "--", self.destination, "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            until = time.monotonic() + _OPENING_S
            try:
                while not Path(self._socket).exists():  # ssh makes it when it is logged in
                    if self._master.poll() is not None or (not terminal and time.monotonic() > until):
                        said.seek(0)
                        raise NotAvailable(f"{self.board}: {_complaint(said.read() or 'timed out')}")
                    time.sleep(0.02)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the login; what still runs on the board for it is stopped there."""
        self._master.terminate()
        self._master.wait()
        self._folder.cleanup()

    def call(
        self,
        task: str,
        payload: Iterable[bytes] = (),
        heard: Callable[[str], None] = lambda _: None,
        **values: Any,
    ) -> Any:
        """Does a task of ``far_side`` on the board and returns its answer; ``heard`` is told each line of its messages.

        Raises NotAvailable with the task's last line if it fails there, or if the connection is lost.
        """
        script = Path(far_side.__file__).read_bytes()
        head = json.dumps({"task": task, "root": self.root, **values}).encode() + b"\n"
        command = f"python3 -c {shlex.quote(_BOOTSTRAP.format(size=len(script)))}"
        # No config and a proxy that fails: should the master be gone, nothing logs in a second time unasked.
        child = _ssh(
            ["-F", "none", "-S", self._socket, "-oProxyCommand=false", "--", self.destination, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        lines: list[str] = []
        listener = threading.Thread(target=_listen, args=(child.stderr, lines, heard))
        listener.start()
        try:
            with suppress(BrokenPipeError):  # it has ended already; why, its messages say
                for chunk in chain((script, head), payload):
                    child.stdin.write(chunk)
                child.stdin.flush()
            answer = child.stdout.read()  # standard input stays open so long: its end tells the board that nobody waits
        except BaseException:
            child.kill()  # so that Ctrl-C need not wait for a board that hangs
            raise
        finally:
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()
            child.wait()
            listener.join()
        if child.returncode == 255:
            raise NotAvailable(
                f"{self.board}: the connection was lost; run the same command again, what is done there stays done"
            )
        if child.returncode == 127:
            raise NotAvailable(f"{self.board}: it has no python3; run there: sudo apt install python3 python3-venv")
        if child.returncode:
            raise NotAvailable(f"{self.board}: {lines[-1] if lines else f'exit code {child.returncode}'}")
        try:
            return json.loads(answer.splitlines()[-1])  # a login script may have written lines before it
        except (ValueError, IndexError) as error:
            raise NotAvailable(
                f"{self.board}: its answer to {task} was cut short; run the same command again"
            ) from error


def _ssh(arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(["ssh", "-T", *arguments], **streams)
    except FileNotFoundError as error:
        raise NotAvailable("ssh is not installed here; install OpenSSH's client") from error


def _listen(stream: IO[bytes], lines: list[str], heard: Callable[[str], None]) -> None:
    for raw in stream:
        if line := raw.decode("utf-8", "replace").strip():
            lines.append(line)
            heard(line)


def _complaint(said: str) -> str:
    for phrase, meaning in _COMPLAINTS.items():
        if phrase in said:
            return meaning
    return f"ssh says {said.strip().splitlines()[-1]!r}"
