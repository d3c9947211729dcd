"""The instruction sets of the CPU kernels: which of them can run here, and how to choose one."""

from __future__ import annotations

import ctypes
from functools import cache

from mlloss_cuda import _extension

NAMES = ("baseline", "x86_64_v3", "x86_64_v4")  # in the order of csrc/cpu/x86_level.h


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_extension.library_path("_cpu")))


def active() -> str:
    """Return the instruction set in use."""
    return NAMES[_library().mlloss_cpu_isa(-1)]


def choose(name: str) -> bool:
    """Use this instruction set from now on. Returns False, without a change, if it is not built or not supported."""
    return _library().mlloss_cpu_isa(NAMES.index(name)) == NAMES.index(name)


@cache
def usable() -> tuple[str, ...]:
    """Return the instruction sets that are built and that this machine supports, the best one last."""
    before = active()
    found = tuple(name for name in NAMES if choose(name))
    choose(before)
    return found
