"""Benchmarks: ``python -m bench``. This module is free of torch, so that the allocator can be set before it loads."""

from __future__ import annotations

import ctypes

__all__ = ["WARM", "give_memory_back", "keep_memory"]

WARM = (
    "allocator: warm for every competitor. Freed memory stays with the process (mallopt before torch is imported),\n"
    "  since a fresh 32 MiB tensor costs some 8,000 page faults, which would drown what is compared."
)

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


def _mallopt(settings: tuple[tuple[int, int], ...]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # no glibc: musl, macOS, Windows
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def keep_memory() -> bool:
    """Make malloc keep what is freed; False where it cannot be told to."""
    return _mallopt(((_MMAP_THRESHOLD, 1 << 30), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def give_memory_back() -> bool:
    """Give every larger block a mapping of its own, so that resident memory is what tensors stand; False as above."""
    return _mallopt(((_MMAP_THRESHOLD, 1 << 16), (_TRIM_THRESHOLD, 1 << 16)))
