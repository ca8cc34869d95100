"""What a runtime answers on this machine, from 48x48 bytes to logits, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import read_bundle, read_reference
from fer_runtimes.errors import FerError
from fer_runtimes.images import prepare
from fer_runtimes.session import Options, open_session

BATCH = 128


@dataclass(frozen=True)
class Answers:
    """What came back from one bundle on one runtime.

    digest: of the bundle that was opened; compute: precision that the engine says it computes in
    logits: float32 ``[N, 7]`` of the gate's images
    reference: float32 ``[M, 7]`` of the bundle's own reference images, once one by one and, where
        the engine takes batches, once in one batch
    """

    digest: str
    compute: str
    logits: NDArray[np.float32]
    reference: tuple[NDArray[np.float32], ...]


class Prepared:
    """Faces, uint8 ``[N, H, W]``, brought to each input size and crop that is asked for, once each."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.faces = np.asarray(images)
        self._made: dict[tuple[int, float], NDArray[np.uint8]] = {}

    def at(self, size: int, crop: float) -> NDArray[np.uint8]:
        """uint8 ``[N, 1, size, size]``."""
        if (size, crop) not in self._made:
            self._made[size, crop] = prepare(self.faces, size, crop)
        return self._made[size, crop]


def ask(path: Path, runtime: str, options: Options, images: NDArray[np.uint8]) -> Answers:
    """Opens a bundle and asks it. images: prepared, uint8 ``[N, 1, S, S]``. Raises what ``open_session`` raises."""
    bundle = read_bundle(path)
    reference = read_reference(bundle).images
    with open_session(bundle, runtime, options) as session:
        logits = _joined(session.infer(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
        single = _joined(session.infer(reference[i : i + 1]) for i in range(len(reference)))
        together = (session.infer(reference),) if session.batches else ()
        return Answers(bundle.digest, session.report().compute, logits, (single, *together))


def ask_apart(path: Path, runtime: str, options: Options, images: NDArray[np.uint8]) -> Answers | str:
    """``ask`` in a new process; one line of text where the runtime cannot run, or dies."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(ask, path, runtime, options, images).result()
        except FerError as error:
            return " ".join(str(error).split())
        except BrokenProcessPool:
            return f"runtime {runtime} died while it answered (crash, or killed for memory)"
        except Exception as error:  # an engine's own have no common base
            return f"runtime {runtime} failed ({type(error).__name__}: {' '.join(str(error).split())})"


def _joined(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(parts))
