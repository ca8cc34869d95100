"""The wheel for a board: what is installed here, without training and its checkpoint."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from fer_runtimes.errors import NotAvailable
from fer_runtimes.files import whole_file

PROJECT = "fer-edge"
# fer_export builds TensorRT engines on the board; fer_train and its checkpoint need torch.
PACKAGES = ("fer_bench", "fer_export", "fer_runtimes")


def build_device_wheel(folder: Path) -> Path:
    """Writes ``fer_edge-VERSION-py3-none-any.whl`` into ``folder``; the same sources give the same bytes.

    Metadata, and so dependencies and extras, are those of the installed distribution, be it
    installed from a wheel or editable. Raises NotAvailable where it is not installed at all.
    """
    try:
        installed = distribution(PROJECT)
    except PackageNotFoundError as error:
        raise NotAvailable(f"{PROJECT} is not installed in this Python; pip install it, then deploy") from error
    name = f"{PROJECT.replace('-', '_')}-{installed.version}"
    info = f"{name}.dist-info"
    scripts = sorted(
        f"{point.name} = {point.value}"
        for point in installed.entry_points
        if point.group == "console_scripts" and point.module.split(".")[0] in PACKAGES
    )
    contents = {path: file.read_bytes() for package in PACKAGES for path, file in _sources(package)}
    contents |= {
        f"{info}/licenses/{file.name}": Path(str(file.locate())).read_bytes()
        for file in installed.files or []
        if file.parent.name == "licenses" and file.parent.parent.name == info
    }
    contents |= {
        f"{info}/METADATA": (installed.read_text("METADATA") or "").encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: {PROJECT}\nRoot-Is-Purelib: true\nTag: py3-none-any\n".encode(),
        f"{info}/entry_points.txt": "\n".join(["[console_scripts]", *scripts, ""]).encode(),
    }
    record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in sorted(contents.items())]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"{name}-py3-none-any.whl"
    with whole_file(wheel) as aside, zipfile.ZipFile(aside, "w") as archive:  # stored: no compressor's version matters
        for path, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return wheel


def _sources(package: str) -> list[tuple[str, Path]]:
    """Every file of a package as it lies here, with its path in the wheel. Nothing is imported for it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise NotAvailable(f"{package} is not installed in this Python; pip install {PROJECT}, then deploy")
    root = Path(spec.origin).parent
    return [
        (file.relative_to(root.parent).as_posix(), file)
        for file in sorted(root.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
