"""What a TensorRT engine is asked to be, everything that it depends on, and where built engines are kept.

An engine fits one TensorRT, one GPU and one set of settings, so it is a cache beside the bundle
and never the bundle itself. It is native code: the cache is readable to its owner alone, an engine
is loaded only under the very key that it was built under, and only if its bytes are those built.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput
from fer_runtimes.files import cache_dir, whole_file

FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is to be built; a bundle carries it as ``build``.

    batch: smallest, likeliest and largest number of images in one run
    workspace_mib: scratch memory that the builder may plan with, MiB
    dla_core: number of the DLA core, or None for the GPU; gpu_fallback: layers the DLA lacks run on the GPU
    version_compatible, hardware_compatible: TensorRT's flags of these names
    preset: the board that the settings were made for, or None
    """

    precision: str
    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int = 256
    dla_core: int | None = None
    gpu_fallback: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    preset: str | None = None

    def __post_init__(self) -> None:
        """Raises BadInput for settings that no engine can have."""
        if self.precision not in PRECISIONS:
            raise BadInput(f"precision is {self.precision!r}, TensorRT builds {', '.join(PRECISIONS)}")
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise BadInput(
                f"batch is {list(self.batch)}, expected MIN OPT MAX, each at least 1 and none below the last"
            )
        if self.workspace_mib < 1:
            raise BadInput(f"workspace is {self.workspace_mib} MiB, expected at least 1")
        if self.dla_core is not None and self.dla_core < 0:
            raise BadInput(f"DLA core is {self.dla_core}, expected 0 or more")
        if self.dla_core is not None and self.precision == "fp32":
            raise BadInput("a DLA computes in fp16 or int8, not in fp32; use --precision fp16")
        if self.dla_core is not None and self.batch[0] != self.batch[2]:
            raise BadInput(f"a DLA takes one batch size, not {self.batch[0]} to {self.batch[2]}; use --batch 1 1 1")

    @classmethod
    def of(cls, bundle: Bundle) -> BuildSettings:
        """The settings of a bundle. Raises BadInput if it has none, or some that no engine can have."""
        build = bundle.manifest.build
        if build is None:
            raise BadInput(f"{bundle.path}: has no build settings; export it again with --target tensorrt")
        try:
            settings = cls(**{**build, "batch": tuple(map(int, build["batch"]))})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"{bundle.path}: its build settings cannot be read ({error}); export it again") from error
        if settings.precision != bundle.manifest.precision:
            raise BadInput(
                f"{bundle.path}: is {bundle.manifest.precision}, its build settings say {settings.precision}; export it again"
            )
        return settings


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on. Digests are hex SHA-256; what a machine does not have is None."""

    onnx_sha256: str
    tensorrt: str
    cuda_runtime: str
    cuda_driver: str
    driver: str | None
    jetpack: str | None
    gpu: str
    compute_capability: str
    precision: str
    batch: tuple[int, int, int]
    workspace_mib: int
    dla_core: int | None
    gpu_fallback: bool
    version_compatible: bool
    hardware_compatible: bool
    timing_cache_sha256: str | None

    @property
    def digest(self) -> str:
        """SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StoredEngine:
    """An engine on disk and what is known of it: ``key``, ``sha256``, ``bytes``, ``layers`` (the audit), ``parity``."""

    file: Path
    record: dict[str, Any]

    def plan(self) -> bytes:
        """The engine's bytes, checked. Raises BadInput if they are not those that were built."""
        plan = self.file.read_bytes()
        if hashlib.sha256(plan).hexdigest() != self.record["sha256"]:
            raise BadInput(f"{self.file}: is not the engine that was built (SHA-256 differs)")
        return plan


class EngineCache:
    """Engines built on this machine for bundles of one name."""

    def __init__(self, bundle_name: str) -> None:
        """Raises BadInput if others than the owner could have put engines there."""
        root = cache_dir() / "engines"
        # A bundle's name is a stranger's word; its hash is not a path.
        self.folder = root / hashlib.sha256(bundle_name.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (root, self.folder):
            if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                raise BadInput(
                    f"{folder}: belongs to another user, and engines are native code; set FER_CACHE to a folder of yours"
                )
            folder.chmod(0o700)

    @property
    def timings(self) -> Path:
        """What the builder measured of its kernels, over all builds; give it to ``fer-export --timing-cache`` to build from it."""
        return self.folder / TIMING_CACHE

    def find(self, key: EngineKey) -> StoredEngine | None:
        """The engine built under this very key, or None. Its bytes are not checked yet; ``StoredEngine.plan`` does."""
        record = read_record(self._file(key, ".json"))
        if record is None or differences(record["key"], key) or not self._file(key, ".engine").is_file():
            return None
        return StoredEngine(self._file(key, ".engine"), record)

    def why_missing(self, key: EngineKey) -> str:
        """One line: what differs from the nearest engine that was built, or that there is none."""
        records = [record for file in sorted(self.folder.glob("*.json")) if (record := read_record(file))]
        nearest = min((differences(record["key"], key) for record in records), key=len, default=None)
        if nearest is None:
            return f"engine is built for {key.gpu}, TensorRT {key.tensorrt}; this can take minutes"
        if not nearest:
            return "engine is rebuilt: its file is missing"
        return "engine is rebuilt: " + ", ".join(nearest)

    def store(self, key: EngineKey, plan: bytes, layers: Mapping[str, Any], parity: Mapping[str, Any]) -> StoredEngine:
        """Keeps an engine that passed its checks; the record is written last, so that it never speaks of half a file."""
        record = {
            "format": FORMAT,
            "key": asdict(key),
            "sha256": hashlib.sha256(plan).hexdigest(),
            "bytes": len(plan),
            "layers": dict(layers),
            "parity": dict(parity),
        }
        self._file(key, ".json").unlink(missing_ok=True)
        with whole_file(self._file(key, ".engine")) as aside:
            aside.write_bytes(plan)
        with whole_file(self._file(key, ".json")) as aside:
            aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return StoredEngine(self._file(key, ".engine"), record)

    def forget(self, key: EngineKey) -> None:
        """Removes an engine, one that was altered."""
        for suffix in (".json", ".engine"):
            self._file(key, suffix).unlink(missing_ok=True)

    def _file(self, key: EngineKey, suffix: str) -> Path:
        return self.folder / f"{key.digest[:32]}{suffix}"


def differences(built: Mapping[str, Any], key: EngineKey) -> list[str]:
    """Fields in which a recorded key and ``key`` differ, each as ``tensorrt 10.3.0 -> 10.7.0``."""
    wanted = json.loads(json.dumps(asdict(key)))
    return [
        f"{field.name} {_short(built.get(field.name))} -> {_short(wanted[field.name])}"
        for field in fields(EngineKey)
        if built.get(field.name) != wanted[field.name]
    ]


def read_record(file: Path) -> dict[str, Any] | None:
    """An engine's record, or None if the file is absent or is not one (cut short, of another format)."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        whole = record["format"] == FORMAT and isinstance(record["key"], dict) and isinstance(record["sha256"], str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
