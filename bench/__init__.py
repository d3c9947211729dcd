"""Benchmarks: ``python -m bench``. This module imports no torch, so that malloc can be set before torch loads."""

from __future__ import annotations

import ctypes

__all__ = ["WARM", "give_memory_back", "keep_memory", "touch_memory", "trim_memory"]

WARM = (
    "allocator: warm for every implementation. Freed memory stays with the process (mallopt before torch's import),\n"
    "  since a fresh 32 MiB tensor costs some 8,000 page faults, which would drown what is compared."
)

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4

_memory_is_kept = False


def _mallopt(settings: tuple[tuple[int, int], ...]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # no glibc: musl, macOS, Windows
    done = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(done)


def keep_memory() -> bool:
    """Make malloc keep what is freed; return False if this system's malloc has no such setting."""
    global _memory_is_kept
    _memory_is_kept = _mallopt(((_MMAP_THRESHOLD, 1 << 30), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))
    return _memory_is_kept


def give_memory_back() -> bool:
    """Give each larger block its own mapping, so that resident memory is memory in use; return as ``keep_memory``."""
    global _memory_is_kept
    _memory_is_kept = False
    return _mallopt(((_MMAP_MAX, 1 << 16), (_MMAP_THRESHOLD, 1 << 16), (_TRIM_THRESHOLD, 1 << 16)))


def touch_memory(nbytes: int) -> bool:
    """Meet the page faults of a block of memory, and free it; return False, without an effect, if memory is not kept.

    An aligned block needs more room than an equal one that was freed leaves (glibc 2.36), so that the same step may
    take new memory each time, until a free block is larger.
    """
    if not _memory_is_kept:
        return False
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    memory = libc.malloc(ctypes.c_size_t(nbytes))
    if memory:
        ctypes.memset(memory, 0, nbytes)
        libc.free(ctypes.c_void_p(memory))
    return bool(memory)


def trim_memory() -> None:
    """Return freed memory to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
