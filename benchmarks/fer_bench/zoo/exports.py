"""Bundles of the chosen backbones, made in a process of their own, whose memory is gone before anything is measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import FerError

if TYPE_CHECKING:
    from fer_export.zoo import Backbone


@dataclass(frozen=True)
class Exported:
    """A backbone and its bundle for each target, or one line that says why there is none.

    metrics: of the checkpoint, None where the net is untrained
    """

    row: Backbone
    bundles: dict[str, Bundle]
    metrics: dict[str, Any] | None = None
    error: str | None = None


def export_all(
    rows: Iterable[Backbone], targets: list[str], checkpoints: Path | None, say: Callable[[str], None] = lambda _: None
) -> list[Exported]:
    """Exports each backbone, or finds what was exported before; one that fails costs its own line.

    checkpoints: a folder in which ``MODEL.pt`` is that backbone trained
    """
    done, context = [], multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pool: ProcessPoolExecutor | None = None
        for row in rows:
            say(row.name)
            trained = checkpoints / f"{row.model}.pt" if checkpoints else None
            if trained is not None and not trained.is_file():
                trained = None
            if pool is None:
                pool = stack.enter_context(ProcessPoolExecutor(1, context))
            try:
                done.append(pool.submit(_export, row, targets, trained).result())
            except BrokenProcessPool:
                done.append(Exported(row, {}, error="died while it was exported (a crash, or killed for memory)"))
                pool = None
    return done


def _export(row: Backbone, targets: list[str], trained: Path | None) -> Exported:
    from fer_export.zoo import ZooCache

    try:
        cache = ZooCache(row, trained)
        return Exported(row, {target: cache.bundle(target) for target in targets}, cache.metrics)
    except FerError as error:
        return Exported(row, {}, error=" ".join(str(error).split()))
    except Exception as error:  # the exporter's own, of which it has many
        return Exported(row, {}, error=" ".join(f"{type(error).__name__}: {error}".split()))
