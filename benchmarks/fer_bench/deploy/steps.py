"""The steps of a deployment. Each looks at what stands on the board already, and says what it did or left."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fer_bench.deploy.ssh import Connection
from fer_bench.deploy.wheel import build_device_wheel
from fer_bench.merge import Results, parse_results
from fer_runtimes.bundle import Bundle
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.files import sha256_of

Say = Callable[[str], None]

# Room for an environment: numpy, pillow, rich and the larger engines with their unpacking.
_ENVIRONMENT_BYTES = 500_000_000


@dataclass(frozen=True)
class Parcel:
    """Files that go to the board together. name: below the root there, with the digest of what is in it; title: for people."""

    name: str
    title: str
    files: tuple[tuple[str, Path, int, str], ...]  # path below the name, path here, bytes, SHA-256

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, _, size, _ in self.files)


@dataclass(frozen=True)
class Answer:
    """What came back. code: of fer-bench there; complaint: its last line, where the code is not 0."""

    results: Results
    code: int
    complaint: str


def own_runtimes(bundles: Sequence[Bundle]) -> list[str]:
    """The runtime of each bundle's own target: the one that names the target first."""
    found = []
    for bundle in bundles:
        names = [name for name, engine in ENGINES.items() if engine.targets[:1] == (bundle.manifest.target,)]
        if not names:
            raise BadInput(
                f"{bundle.path}: no runtime is made for target {bundle.manifest.target}; name one with --runtime"
            )
        found.append(names[0])
    return list(dict.fromkeys(found))


def check_runtimes(runtimes: Sequence[str], bundles: Sequence[Bundle]) -> None:
    """Raises BadInput for a runtime that is unknown, that cannot go to a board, or that runs none of the bundles."""
    for name in runtimes:
        engine = ENGINES.get(name)
        if engine is None:
            raise BadInput(f"runtime {name!r} is unknown; known are {', '.join(ENGINES)}")
        if "torch" in engine.needs:
            raise BadInput(
                f"runtime {name} needs torch and fer_train, which do not go to a board; measure it with fer-bench"
            )
        if engine.targets and not any(bundle.manifest.target in engine.targets for bundle in bundles):
            raise BadInput(f"none of the bundles runs on {name}, which runs targets {', '.join(engine.targets)}")


def deploy(
    link: Connection,
    bundles: Sequence[Bundle],
    runtimes: Sequence[str],
    options: Sequence[str],
    data: Path | None = None,
    wheels: Path | None = None,
    say: Say = lambda _: None,
    working: Say = lambda _: None,
) -> Answer:
    """Copies what the board lacks, makes the environment, runs fer-bench there, and returns what it wrote.

    options: of fer-bench, beside runtimes, bundles and data.
    say: told each step that is done; working: told what goes on.
    Raises NotAvailable, naming the board, for whatever it lacks or fails at.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_device_wheel(Path(scratch))
        code = parcel("wheels", wheel)
        models = [parcel("bundles", bundle.path) for bundle in bundles]
        given = {path: parcel(kind, path) for kind, path in (("data", data), ("wheels", wheels)) if path}
        parcels = [code, *models, *given.values()]
        working("asking the board what it is")
        board = link.call("check", names=[part.name for part in parcels])
        recipe = {"wheel": code.name, "python": board["python"], "extras": _extras(runtimes)}
        ready = _is_ready(board["environment"], recipe)
        missing = [part for part in parcels if part.name not in board["present"]]
        _check_board(link.board, board, runtimes, sum(part.bytes for part in missing), ready)
        say(
            f"{link.board}: {board['model']}, {board['machine']}, Python {board['python']}, {_size(board['free'])} free"
        )
        for part in parcels:
            if part in missing:
                files = [{"path": path, "bytes": size, "sha256": digest} for path, _, size, digest in part.files]
                link.call("receive", _chunks(part, working), name=part.name, files=files)
            say(f"{part.title}: {f'copied, {_size(part.bytes)}' if part in missing else 'is there already'}")
    environment = f"environment for {', '.join(runtimes)}"
    if not ready:
        working(f"making the {environment}")
        recipe["extras"] = sorted({*recipe["extras"], *(board["environment"] or recipe)["extras"]})
        only = given[wheels].name if wheels else None
        link.call("install", wheel=f"{code.name}/{wheel.name}", wheels=only, recipe=recipe)
    say(f"{environment}: {'is there already' if ready else 'made'}")
    arguments = [word for name in runtimes for word in ("--runtime", name)]
    arguments += [word for part in models for word in ("--model", f"{board['root']}/{part.name}")]
    if data:
        inside = f"/{data.name}" if data.is_file() else ""
        arguments += ["--data", f"{board['root']}/{given[data].name}{inside}"]
    return _bench(link, [*arguments, *options], working)


def _bench(link: Connection, arguments: Sequence[str], working: Say) -> Answer:
    lines = ["it wrote no results"]

    def heard(line: str) -> None:
        lines.append(line)
        working(line)

    working("measuring")
    answer = link.call("bench", heard=heard, arguments=arguments)
    last = lines[-1].removeprefix("error: ")
    if answer["results"] is None:
        error = CheckFailed if answer["code"] == CheckFailed.exit_code else NotAvailable
        raise error(f"{link.board}: {last}")
    return Answer(parse_results(answer["results"], f"results of {link.board}"), answer["code"], last)


def parcel(kind: str, path: Path) -> Parcel:
    """A file, or a folder with all that is in it. Raises BadInput if it is absent or empty."""
    inside = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not inside:
        raise BadInput(f"{path}: no such file, or an empty folder")
    root = path.parent if path.is_file() else path
    files = tuple((file.relative_to(root).as_posix(), file, file.stat().st_size, sha256_of(file)) for file in inside)
    digest = sha256("".join(f"{name}\0{value}\0" for name, _, _, value in files).encode()).hexdigest()
    title = path.resolve().name
    return Parcel(f"{kind}/{re.sub(r'[^A-Za-z0-9._-]', '_', title)}-{digest[:16]}", title, files)


def _chunks(part: Parcel, working: Say) -> Iterator[bytes]:
    """The bytes of all files, one after the other: what the far side's ``receive`` reads."""
    sent = 0
    for _, file, size, _ in part.files:
        with file.open("rb") as source:
            left = size
            while left:
                chunk = source.read(min(left, 1 << 16))
                if not chunk:  # the far side would wait for the rest for ever
                    raise BadInput(f"{file}: grew shorter while it was copied; run the same command again")
                yield chunk
                left -= len(chunk)
                sent += len(chunk)
                working(f"copying {part.title}: {sent / part.bytes:.0%} of {_size(part.bytes)}")


def _extras(runtimes: Sequence[str]) -> list[str]:
    """The extras that the runtimes' own advice names."""
    found = re.findall(r"'\.\[([\w,-]+)\]'", " ".join(ENGINES[name].install for name in runtimes))
    return sorted({extra for group in found for extra in group.split(",")})


def _is_ready(environment: dict[str, Any] | None, recipe: dict[str, Any]) -> bool:
    """Whether the environment that stands there was made from this wheel, by this Python, with these extras or more."""
    return environment is not None and (
        all(environment[key] == recipe[key] for key in ("wheel", "python"))
        and set(recipe["extras"]) <= set(environment["extras"])
    )


def _check_board(name: str, board: dict[str, Any], runtimes: Sequence[str], copied: int, ready: bool) -> None:
    """Raises NotAvailable for what would fail later, with less clear words."""
    if not ready and not board["can_make_environments"]:
        raise NotAvailable(f"{name}: its python3 cannot make environments; run there: sudo apt install python3-venv")
    if board["jetson"] and not board["tensorrt"] and any("tensorrt" in ENGINES[name].needs for name in runtimes):
        raise NotAvailable(f"{name}: its python3 has no tensorrt; run there: sudo apt install nvidia-jetpack")
    needed = copied + (0 if ready else _ENVIRONMENT_BYTES)
    if board["free"] < needed:
        raise NotAvailable(
            f"{name}: {_size(board['free'])} are free in {board['root']}, {_size(needed)} are needed; "
            "make room, or name another place with --remote-dir"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
