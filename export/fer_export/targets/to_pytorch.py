"""PyTorch's own: a checkpoint with the folded (or unfolded) weights, read by the ``pytorch`` runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fer_export.pipeline import Source
from fer_train.checkpoint import save_checkpoint


def convert(source: Source, precision: str, folder: Path) -> None:
    """Writes ``model.pt``."""
    state = {name: value.detach().clone() for name, value in source.net.net.state_dict().items()}
    folded = source.proof is not None or source.checkpoint.folded
    save_checkpoint(folder / "model.pt", replace(source.checkpoint, state_dict=state, folded=folded))
