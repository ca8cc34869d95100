"""One small interface over every engine: open a bundle, give images, get logits.

    with open_session(read_bundle(path), "onnxruntime") as session:
        logits = session.infer(images)  # uint8 [N, 1, S, S] to float32 [N, 7]

What must hold for all engines stands here (dtypes, shapes, ownership of results); what an engine
does lives in one file of ``fer_runtimes/engines``, found through the table ``ENGINES``.
"""

from __future__ import annotations

import importlib
import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Bundle
from fer_runtimes.console import usable_cores
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.labels import LABELS
from fer_runtimes.metrics import softmax

_SYSTEMS = {"Darwin": "macOS"}


@dataclass(frozen=True)
class Options:
    """How to run. device: as the engine calls it (``cpu``, ``cuda``, ``GPU``), or empty for the runtime's own; threads: at least 1."""

    device: str = ""
    threads: int = field(default_factory=usable_cores)


@dataclass(frozen=True)
class Report:
    """What an engine really uses, read back from it rather than repeated from the request.

    notes: what a user should know of this run, a sentence each
    """

    device: str
    provider: str
    compute: str
    threads: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


class Session(ABC):
    """A model opened in an engine. An engine's class takes (bundle, options) and fills three methods.

    batches: False where the engine is given one image at a time whatever ``infer`` is given
    """

    batches = True

    def __init__(self, bundle: Bundle, options: Options) -> None:
        if options.threads < 1:
            raise BadInput(f"threads is {options.threads}, expected at least 1")
        self.bundle = bundle
        self.options = options

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, float32 ``[N, 7]``, of grey faces, uint8 ``[N, 1, S, S]``. The caller owns the result.

        Raises BadInput for another dtype or shape: engines differ in what they convert in silence.
        """
        size = self.bundle.manifest.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (1, size, size) or not len(images):
            raise BadInput(
                f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, 1, {size}, {size}] with N at least 1"
            )
        logits = self._infer(np.ascontiguousarray(images))
        if logits.dtype != np.float32 or logits.shape != (len(images), len(LABELS)):
            raise BadInput(
                f"{self.bundle.path}: the model gives {logits.dtype} {list(logits.shape)}, expected float32 [{len(images)}, {len(LABELS)}]"
            )
        return logits

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities, float64 ``[N, 7]``, of what ``infer`` takes: softmax(logits / the bundle's temperature).

        Where ``bundle.manifest.probabilities`` is None the temperature is 1, and they are not calibrated.
        """
        return softmax(self.infer(images), self.bundle.manifest.temperature)

    @abstractmethod
    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Runs the engine. The result must not be memory that the engine will write again."""

    @abstractmethod
    def report(self) -> Report:
        """What the engine uses, as it says itself."""

    def close(self) -> None:
        """Lets go of the engine's memory and threads."""
        self.__dict__.clear()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def why_not(runtime: str) -> str | None:
    """One line that says why a runtime cannot run here, or None if what it needs is installed."""
    engine = ENGINES.get(runtime)
    if engine is None:
        return f"runtime {runtime!r} is unknown; known are {', '.join(ENGINES)}"
    if engine.system not in ("", platform.system()):
        others = [name for name in runtimes_for(engine.targets[0]) if name != runtime]
        return f"runtime {runtime} runs on {_SYSTEMS.get(engine.system, engine.system)} alone; here use {' or '.join(others)}"
    missing = [module for module in engine.needs if not _installed(module)]
    if missing:
        return f"runtime {runtime} needs {', '.join(missing)}, not installed here; {engine.install}"
    if engine.probe and (reason := named(engine.probe)()):
        return f"runtime {runtime} cannot run here: {reason}"
    return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a dotted name: the package around it is not here either
        return False


def named(dotted: str) -> Any:
    """What a table names as ``package.module:attribute``, imported now."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def runtimes_for(target: str) -> list[str]:
    """Names of the runtimes that run bundles of a target, the measuring ``null`` left out."""
    return [name for name, engine in ENGINES.items() if target in engine.targets]


def open_session(bundle: Bundle, runtime: str, options: Options | None = None) -> Session:
    """Opens a bundle in a runtime.

    Raises NotAvailable if the runtime, or the device asked of it, cannot be had here, and BadInput
    if the bundle is of a target that the runtime does not run.
    """
    options, engine = options or Options(), ENGINES.get(runtime)
    if engine and engine.probe and options.device not in ("", engine.device):
        raise NotAvailable(f"runtime {runtime} runs on device {engine.device} alone, not on {options.device!r}")
    if reason := why_not(runtime):
        raise NotAvailable(reason)
    assert engine is not None
    target = bundle.manifest.target
    if engine.targets and target not in engine.targets:
        raise BadInput(
            f"runtime {runtime} runs targets {', '.join(engine.targets)}, {bundle.path} is {target}; "
            f"use --runtime {' or '.join(runtimes_for(target)) or 'of another version'}"
        )
    try:
        opener = named(engine.opener)
    except ImportError as error:
        raise NotAvailable(f"runtime {runtime} cannot be loaded ({error}); {engine.install}") from error
    session = opener(bundle, replace(options, device=options.device or engine.device))
    assert isinstance(session, Session)
    return session
