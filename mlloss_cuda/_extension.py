"""The compiled libraries: how they are loaded, and information about their build."""

from __future__ import annotations

import ctypes
import importlib
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

__all__ = [
    "build_information",
    "compiled_compounds",
    "cpu_missing",
    "cuda_missing",
    "known_devices",
    "launch_plan",
    "library_path",
    "listed_compounds",
    "reserve_multiprocessors",
    "strategies",
]

_REBUILD: Final = "build the extension with `make build`, or `pip install --no-build-isolation .`"


def _load_extension() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("mlloss_cuda._C"), ""
    except ImportError as error:
        return None, f"the compiled extension is not installed ({error}); {_REBUILD}"


def library_path(name: str) -> Path:
    """Return the path of ``_cpu`` or ``_cuda`` for this interpreter; other interpreters may have their own."""
    return Path(__file__).parent / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _load_library(name: str) -> str:
    """Load the ops of a kernel library; return an empty string, or the reason why it cannot be loaded."""
    library = library_path(name)
    if not library.exists():
        return f"the library {library.name} was not built; {_REBUILD}"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"the library {library.name} does not load: {error}"
    return ""


_extension, _extension_missing = _load_extension()
cpu_missing = _extension_missing or _load_library("_cpu")


def build_information() -> dict[str, str]:
    """Return what the extension was built with; empty if it is not installed."""
    return dict(_extension.build_information()) if _extension else {}


# launch_plan(rows, labels, dtype, grouping="samples", targets="bool", gradient=True, capability=90, strategy=0,
# team_threads=768, device="") returns the plan's fields, and its description in words. A name of `known_devices`
# replaces the capability.
launch_plan = _extension.launch_plan if _extension else None


def known_devices() -> dict[str, dict[str, float]]:
    """Return the facts of the devices that plans can be made for without a GPU, by name."""
    return dict(_extension.known_devices()) if _extension else {}


def strategies() -> dict[str, int]:
    """Return the numbers of the launch strategies, for tests and benchmarks that set ``mlloss_cuda_strategy``."""
    return dict(_extension.strategies()) if _extension else {}


def listed_compounds() -> list[str]:
    """Return the names of the sums of losses for which CUDA kernels are built."""
    return list(_extension.compounds()) if _extension else []


def compiled_compounds(name: str) -> bool:
    """Return whether CUDA kernels are built for this sum of losses."""
    return name in listed_compounds()


def _load_cuda() -> str:
    if _extension_missing:
        return _extension_missing
    if not build_information()["cuda"]:
        remedy = "install the CUDA toolkit (or pip's nvidia-cuda-nvcc 13.0) and rebuild"
        return f"built without CUDA: no nvcc was found, or MLLOSS_CUDA was OFF; {remedy}"
    return _load_library("_cuda")


# The reason why the CUDA library cannot be used; empty if it can.
cuda_missing = _load_cuda()

# The number that reserve_multiprocessors has set; the library has its own copy, if there is one.
_reserved = 0


def reserve_multiprocessors(count: int) -> int:
    """Leave multiprocessors of every GPU to kernels of other streams, and return the number that was left before.

    The CUDA kernels for long rows share a row among blocks that wait for one another, so all blocks of a launch run at
    the same time, on as many multiprocessors as it helps. Such a launch starts only when all of them are free of other
    kernels. A kernel that holds one of them, and itself waits for work that this process issues later (a receive of
    NCCL that was posted ahead, for example), would then never end, and the launch never start. Reserve as many
    multiprocessors as such kernels hold, at most: 32 are enough for NCCL with its defaults. The kernels are slower by
    up to the share of the multiprocessors that is left.

    The number is one for the process, and holds for the CUDA backend only. At least one multiprocessor stays in use.

    Args:
        count: how many multiprocessors stay free. It is 0 until the first call.

    Returns:
        The number before this call.

    Raises:
        TypeError: ``count`` is not an int.
        ValueError: ``count`` is negative.

    Example:
        >>> import mlloss_cuda
        >>> before = mlloss_cuda.reserve_multiprocessors(32)
        >>> mlloss_cuda.reserve_multiprocessors(before)
        32
    """
    global _reserved
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count: expected an int, got {count!r}")
    if count < 0:
        raise ValueError(f"count: expected 0 or more, got {count}")
    if not cuda_missing:
        ctypes.CDLL(str(library_path("_cuda"))).mlloss_cuda_reserve(min(count, 2**31 - 1))
    before, _reserved = _reserved, count
    return before
