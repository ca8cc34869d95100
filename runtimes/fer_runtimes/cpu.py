"""What the system tells about its processor."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

VNNI = ("avx512_vnni", "avx_vnni")  # sum products of bytes in 32 bits
_CPUINFO = Path("/proc/cpuinfo")


@lru_cache(1)
def _facts() -> dict[str, str]:
    """The last processor's entry, ``key: value``; empty where the system has none."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def name() -> str:
    """The processor's own name where the system tells it."""
    return (
        _facts().get("model name") or (platform.machine() if _facts() else platform.processor()) or platform.machine()
    )


def flags() -> frozenset[str]:
    """Its instruction set extensions, as Linux names them; empty where the system does not tell."""
    return frozenset(_facts().get("flags", _facts().get("Features", "")).split())


def has_vnni() -> bool:
    """Whether an x86 processor is known to sum products of bytes in 32 bits, where others overflow 16."""
    return any(flag in flags() for flag in VNNI)
