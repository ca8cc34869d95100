"""Presets for ``--for BOARD``: what a Jetson can do, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fer_runtimes.engines.trt_key import BuildSettings
from fer_runtimes.errors import BadInput, NotAvailable


@dataclass(frozen=True)
class Board:
    """What the module is and what suits it.

    precision: the preset's; workspace_mib: for the builder, a small share of the memory that CPU and GPU divide
    dla_cores: at most (the smaller of two modules of one name has fewer; the build finds that out)
    ends_at: the last software for a board that TensorRT 10.3 never reached, else None
    """

    precision: str
    workspace_mib: int
    dla_cores: int
    ends_at: str | None = None


# NVIDIA's data sheets: Orin Nano has no DLA, Orin NX one (8 GB) or two (16 GB), AGX Orin two, both Xaviers two.
# JetPack 5 is the last for Xavier, and its TensorRT 8.5 has no strongly typed networks.
BOARDS: dict[str, Board] = {
    "jetson-orin-nano": Board("fp16", 256, 0),
    "jetson-orin-nx": Board("fp16", 512, 2),
    "jetson-agx-orin": Board("fp16", 1024, 2),
    "jetson-xavier-nx": Board("fp16", 256, 2, "JetPack 5 with TensorRT 8.5"),
    "jetson-agx-xavier": Board("fp16", 512, 2, "JetPack 5 with TensorRT 8.5"),
}


def board(name: str) -> Board:
    """A board that TensorRT 10.3 runs on. Raises BadInput for an unknown name, NotAvailable for a board left behind."""
    found = BOARDS.get(name)
    if found is None:
        raise BadInput(f"board {name!r} is unknown; known are {', '.join(BOARDS)}")
    if found.ends_at:
        raise NotAvailable(
            f"{name} ends at {found.ends_at}, and engines here need 10.3; use --target onnx with ONNX Runtime on that board"
        )
    return found


def settings_for(
    preset: str | None,
    precision: str | None = None,
    batch: tuple[int, int, int] | None = None,
    workspace_mib: int | None = None,
    dla_core: int | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
) -> BuildSettings:
    """Build settings from a preset (or none), what was asked for by name coming first.

    A DLA core is never assumed: it takes one batch size, and layers that it lacks go to the GPU.
    Raises BadInput or NotAvailable for settings that no engine, or no engine on that board, can have.
    """
    facts = board(preset) if preset else None
    if facts and dla_core is not None and dla_core >= facts.dla_cores:
        raise NotAvailable(
            f"{preset} has {facts.dla_cores or 'no'} DLA cores, core {dla_core} was asked for; leave out --dla-core"
        )
    if facts and hardware_compatible:
        raise NotAvailable(f"TensorRT builds hardware-compatible engines for desktop GPUs alone, not for {preset}")
    fixed = (1, 1, 1) if dla_core is not None else (1, 1, 8)
    return BuildSettings(
        precision or (facts.precision if facts else "fp32"),
        batch or fixed,
        workspace_mib or (facts.workspace_mib if facts else 256),
        dla_core,
        dla_core is not None,
        version_compatible,
        hardware_compatible,
        preset,
    )
