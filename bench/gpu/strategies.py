"""Launch strategies: the plans that a launch planner has for a shape, and running a loss by one of them."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from mlloss_cuda import _backends, _extension, use_backend

from .device import Device

__all__ = ["ONE_LOSS", "SUM_OF_LOSSES", "Strategy", "forced", "last_strategy", "strategies"]

# Threads of team kernels on a multiprocessor, as registers allow.
ONE_LOSS: Final = 768
SUM_OF_LOSSES: Final = 512


@dataclass(frozen=True)
class Strategy:
    """A plan for a shape. Triton's own plan counts as one strategy."""

    name: str
    number: int  # the CUDA engine's number for it; 0 is the planner's own choice
    reads: int  # reads of the logits, forward and backward together
    words: str  # the plan as the planner prints it
    engine: str = "cuda"


def strategies(
    labels: int,
    rows: int,
    dtype: str,
    element_wise: bool,
    mode: str,
    device: Device,
    targets: str = "bool",
    team_threads: int = ONE_LOSS,
    triton: bool = True,
) -> list[Strategy]:
    """Return every distinct plan of the planner for a shape, the default first.

    ``targets``: a dtype or ``"csr"``; ``team_threads``: how many threads of the loss's team kernels a multiprocessor
    runs at once; ``triton``: whether the Triton engine's plan is included.
    """
    if _extension.launch_plan is None:
        raise RuntimeError("the compiled extension is not installed")
    forms = mode != "forward" and dtype != "float16"  # float16 recomputes its gradient in the backward
    found: dict[str, Strategy] = {}
    grouping = "element" if element_wise else "samples"
    for number in _extension.strategies().values():
        plan = _extension.launch_plan(
            rows, labels, dtype, grouping, targets, forms, device.capability, number, team_threads
        )
        reads = plan["reads"] + (mode != "forward" and not forms)
        found.setdefault(plan["strategy"], Strategy(plan["strategy"], number, reads, plan["forward"]))
    # Triton cannot read the CPU tensors of a dry run.
    return [
        *found.values(),
        *([] if device.dry or not triton else _of_triton(labels, rows, dtype, element_wise, mode, forms)),
    ]


def _of_triton(labels: int, rows: int, dtype: str, element_wise: bool, mode: str, forms: bool) -> list[Strategy]:
    if not _backends.backends()["triton"].usable:
        return []
    describe = importlib.import_module("mlloss_cuda._triton").describe
    words, reads = describe(rows, labels, getattr(torch, dtype), element_wise)
    if not forms:
        reads = 1 if mode == "forward" else 2
    return [Strategy("triton", 0, reads, words, "triton")]


def _library() -> ctypes.CDLL | None:
    """Load the CUDA library; it loads without a GPU too, so that a dry run takes this step."""
    path = _extension.library_path("_cuda")
    return ctypes.CDLL(str(path)) if path.exists() else None


def last_strategy() -> str:
    """Return the strategy of the CUDA engine's last forward pass."""
    library = _library()
    names = {number: name for name, number in _extension.strategies().items()}
    return names.get(library.mlloss_cuda_last_strategy(), "") if library else ""


@contextmanager
def forced(strategy: Strategy | None) -> Iterator[None]:
    """Launch every loss by this strategy; None leaves the choice to the planner."""
    if strategy is not None and strategy.engine == "triton":
        with use_backend("triton"):
            yield
        return
    library = _library()
    force = library.mlloss_cuda_strategy if library else lambda number: number
    force(strategy.number if strategy else 0)
    try:
        yield
    finally:
        force(0)
