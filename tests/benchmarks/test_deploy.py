"""fer-deploy against a real sshd on this machine, with ONNX Runtime on the CPU as the board's runtime."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

import onnx
import pytest
from conftest import Command
from onnx import numpy_helper

from fer_bench.deploy.ssh import Connection
from fer_runtimes.bundle import MANIFEST, Bundle
from fer_runtimes.errors import NotAvailable
from fer_runtimes.files import sha256_of

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
PYTHON = Path(sys.base_prefix) / "bin" / "python3"
FEW = ("--queries", 32, "--seconds", 0, "--threads", 1)


@dataclass(frozen=True)
class Board:
    """An sshd on a port of its own; config is an ssh_config in which it is called ``board``."""

    config: Path
    port: int
    sshd: subprocess.Popen[bytes]

    def option(self) -> str:
        return f"--ssh-option=-F{self.config}"

    def variant(self, path: Path, *lines: str) -> str:
        """The same with other settings, which win as they come first."""
        path.write_text("\n".join(lines) + "\n" + self.config.read_text())
        return f"--ssh-option=-F{path}"


Start = Callable[..., Board]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts an sshd whose logins have only the variables given here."""
    if SSHD is None:
        pytest.fail("these tests need a real sshd: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd, as root, wants to be locked in before login
    running: list[subprocess.Popen[bytes]] = []

    def begin(**variables: str) -> Board:
        home = tmp_path_factory.mktemp("sshd")
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # a home without the login scripts of whoever runs the tests
        settings = " ".join(f'"{name}={value}"' for name, value in {"HOME": str(home), **variables}.items())
        (home / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\nPidFile none\n"
            f"UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv {settings}\n"
        )
        (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
        (home / "config").write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {home}/user\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {home}/known_hosts\n  GlobalKnownHostsFile none\n"
        )
        with (home / "log").open("wb") as log:
            running.append(subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(home / "sshd_config")], stderr=log))
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return Board(home / "config", port, running[-1])
            except OSError:
                assert time.monotonic() < until, (home / "log").read_text()
                time.sleep(0.05)

    yield begin
    for process in running:
        process.terminate()
        process.wait()


def path_with(folder: Path, script: str | None = None) -> str:
    """A PATH whose python3 is the tests' own, or a script around it, or (with an empty one) none; and that has cat."""
    folder.mkdir()
    (folder / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    if script != "":
        (folder / "python3").write_text(script or f'#!/bin/sh\nexec {shlex.quote(str(PYTHON))} "$@"\n')
        (folder / "python3").chmod(0o755)
    return f"{folder}:/usr/bin:/bin" if script is None else str(folder)


@pytest.fixture(scope="module")
def board(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board that finds packages as this machine does."""
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http", "HTTP"))}
    pip.setdefault("PIP_CONFIG_FILE", str(Path.home() / ".config" / "pip" / "pip.conf"))
    return start(PATH=path_with(tmp_path_factory.mktemp("bin") / "bin"), **pip)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board's folder, of a name that a careless shell would take apart; the environment in it is made once."""
    return tmp_path_factory.mktemp("board") / 'it\'s a $(touch stolen); "dir" & more'


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".incoming-")]


def last(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.usefixtures("own_cache")
def test_bundles_are_measured_there_and_merged_with_what_was_measured_here(
    board: Board, there: Path, bundles: dict[str, Bundle], csv_file: Path, tmp_path: Path, command: Command
) -> None:
    odd = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "odd $(touch stolen) 'name'"))
    here = command(
        "fer-bench", "--runtime", "openvino", "--model", odd, "--data", csv_file, "--json", tmp_path / "here.json", *FEW
    )
    assert here.returncode == 0, here.stderr
    arguments = (
        "board",
        odd,
        board.option(),
        "--remote-dir",
        there,
        "--data",
        csv_file,
        "--merge",
        tmp_path / "here.json",
        *FEW,
    )
    first = command("fer-deploy", *arguments, "--json", tmp_path / "both.json", "--markdown", tmp_path / "both.md")
    assert first.returncode == 0, first.stderr
    both = json.loads((tmp_path / "both.json").read_text())
    mine, theirs = both["results"]
    assert (mine["runtime"], theirs["runtime"], theirs["machine"]) == ("openvino", "onnxruntime", "board")
    assert theirs["bundle_sha256"] == mine["bundle_sha256"] == bundles["onnx fp32"].digest
    assert theirs["error"] is theirs["parity_failure"] is None
    assert theirs["accuracy"] == mine["accuracy"]
    assert set(both["machines"]) == {mine["machine"], "board"}
    versions = both["machines"]["board"]["environment"]["versions"]
    assert "onnxruntime" in versions
    assert "torch" not in versions
    for shown in (first.stdout, (tmp_path / "both.md").read_text()):
        assert "board" in shown
        assert "openvino" in shown

    mine_alone = json.loads((tmp_path / "here.json").read_text())
    mine_alone["data"]["sha256"] = "0" * 64
    (tmp_path / "here.json").write_text(json.dumps(mine_alone))
    second = command("fer-deploy", *arguments, "--json", tmp_path / "own.json")
    assert second.returncode == 2
    assert "different data" in last(second)
    assert "the board's own results are given alone" in last(second)
    assert [row["runtime"] for row in json.loads((tmp_path / "own.json").read_text())["results"]] == ["onnxruntime"]
    assert second.stderr.count("is there already") == 4
    assert "copied" not in second.stderr
    assert not list(tmp_path.rglob("stolen"))
    assert not list(there.parent.rglob("stolen"))
    assert not list(board.config.parent.rglob("stolen"))
    assert left_behind(there) == []

    bench = [there / "venv" / "bin" / "python", "-c", "from fer_bench.cli import main; main()", "--list"]
    listed = subprocess.run(bench, capture_output=True, text=True, check=True, env={})
    assert "runtime pytorch needs torch" in listed.stdout
    assert re.search(r"^onnxruntime +can run here", listed.stdout, re.MULTILINE)
    assert not list((there / "venv").rglob("fer_train*"))


def test_what_fer_bench_says_there_is_passed_on(
    board: Board, there: Path, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    wrong = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "wrong"))
    model = onnx.load(wrong / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, wrong / "model.onnx")
    manifest = json.loads((wrong / MANIFEST).read_text())
    size = (wrong / "model.onnx").stat().st_size
    manifest["files"]["model.onnx"] = {"sha256": sha256_of(wrong / "model.onnx"), "bytes": size}
    (wrong / MANIFEST).write_text(json.dumps(manifest))
    out = tmp_path / "out.json"
    failed = command("fer-deploy", "board", wrong, board.option(), "--remote-dir", there, *FEW, "--json", out)
    assert failed.returncode == 1, failed.stderr
    assert "departs from the reference" in last(failed)
    assert json.loads(out.read_text())["results"][0]["agreement"] < 0.9

    path = bundles["onnx fp32"].path
    refused = command("fer-deploy", "board", path, board.option(), "--remote-dir", there, *FEW, "--device", "cuda")
    assert refused.returncode == 2
    assert "CUDAExecutionProvider" in last(refused)


def test_a_connection_that_is_cut_in_mid_copy_leaves_nothing_half_and_the_same_command_goes_on(
    board: Board, there: Path, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    big = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "big"))
    (big / "notes.bin").write_bytes(os.urandom(8_000_000))
    cut = tmp_path / "cut.py"  # carries three megabytes to the board, then no more
    cut.write_text(
        "import os, socket, sys, threading\n"
        "line = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "def back():\n"
        "    while data := line.recv(65536): os.write(1, data)\n"
        "threading.Thread(target=back, daemon=True).start()\n"
        "left = 3_000_000\n"
        "while left > 0 and (data := os.read(0, 65536)):\n"
        "    line.sendall(data); left -= len(data)\n"
        "line.close(); os._exit(0)\n"
    )
    weak = board.variant(
        tmp_path / "config", f"ProxyCommand {shlex.quote(str(PYTHON))} {shlex.quote(str(cut))} {board.port}"
    )
    out = tmp_path / "out.json"
    out.write_text("mine")
    done = command("fer-deploy", "board", big, weak, "--remote-dir", there, "--json", out, *FEW)
    assert done.returncode == 2
    assert "the connection was lost; run the same command again" in last(done)
    assert out.read_text() == "mine"
    until = time.monotonic() + 20
    while left_behind(there) and time.monotonic() < until:  # the far side notices in its own time
        time.sleep(0.1)
    assert left_behind(there) == []
    assert not list((there / "bundles").glob("big-*"))
    again = command("fer-deploy", "board", big, board.option(), "--remote-dir", there, "--json", out, *FEW)
    assert again.returncode == 0, again.stderr
    assert "big: copied" in again.stderr


def test_what_arrives_altered_is_not_kept(board: Board, tmp_path: Path) -> None:
    listing = [{"path": "model.onnx", "bytes": 5, "sha256": hashlib.sha256(b"right").hexdigest()}]
    options = [board.option().partition("=")[2]]
    with Connection("board", str(tmp_path / "there"), options) as link:
        with pytest.raises(NotAvailable, match=r"board: bundles/one: model\.onnx arrived altered"):
            link.call("receive", [b"wrong"], name="bundles/one", files=listing)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        link.call("receive", [b"right"], name="bundles/one", files=listing)
    assert (tmp_path / "there" / "bundles" / "one" / "model.onnx").read_bytes() == b"right"


def test_a_board_without_internet_takes_wheels_that_were_copied(
    start: Start, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    needs = [
        need.split(";")[0] for need in requires("fer-edge") or [] if "extra" not in need or "extra == 'onnx'" in need
    ]
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary=:all:",
        "--dest",
        tmp_path / "wheels",
    ]
    subprocess.run([*download, *needs], check=True)
    lonely = start(PATH=path_with(tmp_path / "bin"), PIP_CONFIG_FILE="/dev/null")
    arguments = ("board", bundles["onnx fp32"].path, lonely.option(), "--remote-dir", tmp_path / "there", *FEW)
    done = command("fer-deploy", *arguments, "--wheels", tmp_path / "wheels", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["results"][0]["agreement"] == 1


def of_the_board(there: Path) -> list[str]:
    """Command lines of processes that run from the board's environment."""
    return [line for line in command_lines() if str(there / "venv") in line and "fer_bench" in line]


def logins(board: Board) -> list[str]:
    return [line for line in command_lines() if line.startswith("ssh ") and str(board.config) in line]


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_what_is_interrupted_here_stops_there_too(
    how: str, board: Board, there: Path, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    program = Path(sys.executable).parent / "fer-deploy"
    path = str(bundles["onnx fp32"].path)
    arguments = [
        "board",
        path,
        board.option(),
        "--remote-dir",
        str(there),
        "--queries",
        "100000000",
        "--json",
        str(tmp_path / "out.json"),
    ]
    mine = subprocess.Popen([program, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not of_the_board(there):
        assert time.monotonic() < until, "fer-bench was not started"
        time.sleep(0.1)
    if how == "Ctrl-C":  # a terminal's goes to all processes there
        os.killpg(mine.pid, signal.SIGINT)
    else:
        mine.kill()
    said = mine.communicate(timeout=30)[1]
    assert (mine.returncode, "what is done on the board stays done" in said) == (
        (130, True) if how == "Ctrl-C" else (-9, False)
    )
    while of_the_board(there) or logins(board):
        assert time.monotonic() < until, "fer-bench still runs on the board, or the login is still open"
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


OTHER_PYTHONS = {
    "none": ("", "it has no python3"),
    "3.8": (
        f"#!/bin/sh\nexec {shlex.quote(str(PYTHON))} -c \"import sys; sys.version_info = (3, 8, 10, 'final', 0); $2\"\n",
        "its Python is 3.8, 3.10 is needed",
    ),
    "without ensurepip": (
        f"#!/bin/sh\nexec {shlex.quote(str(PYTHON))} -c \"import sys; sys.modules['ensurepip'] = None; $2\"\n",
        "sudo apt install python3-venv",
    ),
}


@pytest.mark.parametrize("python", OTHER_PYTHONS)
def test_a_python_that_will_not_do_is_named(
    python: str, start: Start, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    script, complaint = OTHER_PYTHONS[python]
    poor = start(PATH=path_with(tmp_path / "bin", script))
    done = command("fer-deploy", "board", bundles["onnx fp32"].path, poor.option(), "--remote-dir", tmp_path / "there")
    assert done.returncode == 2
    assert complaint in last(done)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("limits", "complaint"), [("size=8m", "8.4 MB are free in"), ("nr_inodes=8", "No space left on device")]
)
def test_a_full_disk_is_told_before_or_while_copying(
    limits: str, complaint: str, board: Board, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    """nr_inodes: room enough to pass the first look, and none for the files themselves."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", limits, "none", disk], capture_output=True).returncode:
        pytest.skip("a disk of a few files can be made by root alone")
    try:
        done = command("fer-deploy", "board", bundles["onnx fp32"].path, board.option(), "--remote-dir", disk / "there")
        assert done.returncode == 2
        assert complaint in last(done)
        assert left_behind(disk) == []
        assert not list(disk.rglob("*.onnx"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_wheel_that_is_missing_is_told_in_the_words_of_pip(
    board: Board, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    (tmp_path / "wheels").mkdir()
    path = bundles["onnx fp32"].path
    arguments = ("board", path, board.option(), "--remote-dir", tmp_path / "there", "--wheels", tmp_path / "wheels")
    assert "an empty folder" in last(command("fer-deploy", *arguments))
    (tmp_path / "wheels" / "read me.txt").write_text("no wheel")
    done = command("fer-deploy", *arguments)
    assert done.returncode == 2
    assert "pip failed: ERROR: No matching distribution found for" in last(done)
    assert not list((tmp_path / "there").rglob("fer-deploy.json"))


def test_hosts_that_cannot_be_trusted_or_reached_are_one_line_each(
    board: Board, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    other = (tmp_path / "other.pub").read_text()
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{board.port} {other}")
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        cases = [
            ((f"UserKnownHostsFile {tmp_path}/empty",), "its host key is not known here"),
            ((f"UserKnownHostsFile {tmp_path}/empty", "StrictHostKeyChecking no"), "its host key is not known here"),
            ((f"UserKnownHostsFile {tmp_path}/changed",), "ssh-keygen -R"),
            ((f"IdentityFile {tmp_path}/other", "Host nobody", "Host board"), None),
            ((f"Port {closed.getsockname()[1]}",), "it refuses connections on that port"),
            ((f"Port {silent.getsockname()[1]}",), "it does not answer"),
            (("HostName no-such-board.invalid",), "unknown host"),
            (("ProxyCommand false",), "ssh says"),
        ]
        for number, (lines, complaint) in enumerate(cases):
            if complaint is None:  # IdentityFile adds up: the right key has to go
                text = board.config.read_text().replace(f"{board.config.parent}/user", f"{tmp_path}/other")
                (tmp_path / "config-auth").write_text(text)
                option, complaint = f"--ssh-option=-F{tmp_path}/config-auth", "it refuses the login"
            else:
                option = board.variant(tmp_path / f"config-{number}", *lines)
            done = command(
                "fer-deploy",
                "board",
                bundles["onnx fp32"].path,
                option,
                "--ssh-option=-oConnectTimeout=2",
                "--remote-dir",
                tmp_path / "there",
            )
            assert done.returncode == 2
            assert last(done).startswith("error: board: ")
            assert complaint in last(done)
    assert not (tmp_path / "empty").exists()
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--", "-oProxyCommand=touch stolen", "{onnx}"], "is no board's address"),
        (["--", "me@-oProxyCommand=touch stolen", "{onnx}"], "is no board's address"),
        (["board", "{altered}"], "its contents are not those that the manifest names"),
        (["board", "nowhere"], "nowhere: not a bundle"),
        (["board", "{onnx}", "--runtime", "tflite"], "known are pytorch"),
        (["board", "{onnx}", "--runtime", "pytorch"], "measure it with fer-bench"),
        (["board", "{openvino}", "--runtime", "onnxruntime"], "none of the bundles runs on onnxruntime"),
        (["board", "{pytorch}"], "measure it with fer-bench"),
        (["board", "{onnx}", "--merge", "{half}"], "not a whole result file"),
        (["board", "{onnx}", "--data", "nothing.csv"], "nothing.csv: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_told_before_anything_is_copied(
    arguments: list[str], complaint: str, board: Board, bundles: dict[str, Bundle], tmp_path: Path, command: Command
) -> None:
    altered = Path(shutil.copytree(bundles["onnx fp32"].path, tmp_path / "altered"))
    (altered / "model.onnx").write_bytes(b"another model")
    (tmp_path / "half.json").write_text('{"format": 1, "resul')
    places = {name: bundles[f"{name} fp32"].path for name in ("onnx", "openvino", "pytorch")}
    places |= {"altered": altered, "half": tmp_path / "half.json"}
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(**places) for word in arguments]
    done = command("fer-deploy", board.option(), "--remote-dir", tmp_path / "there", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in last(done)
    assert sorted(tmp_path.rglob("*")) == before
