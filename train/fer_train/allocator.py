"""Freed memory that is kept for the next step, which asks for the same again.

A training step on a CPU frees and takes some hundred megabytes in large blocks. glibc gives such blocks back to the system
at once, and the system zeroes every page of them anew: on two cores that was a sixth of the time of a step of ``fer_small``.
"""

from __future__ import annotations

import ctypes

# Of glibc's <malloc.h>: trim the heap's top from 2 GiB on, take 256 MiB at a time, map no block below 1 GiB by itself.
_MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28), "M_MMAP_THRESHOLD": (-3, 2**30)}


def keep_freed_memory() -> bool:
    """Sets the C library's allocator so, for the whole process; says whether it could be set (it can with glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    return all(mallopt(option, value) for option, value in _MALLOPT.values())
