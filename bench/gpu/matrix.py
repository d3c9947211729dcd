"""What is measured: shapes, dtypes and peers, the most telling first, since time may run out."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from mlloss_cuda import _backends, _extension, use_backend

from .device import Device

__all__ = [
    "HOST_SHAPE",
    "MAIN_LABELS",
    "MODES",
    "Group",
    "Strategy",
    "default_groups",
    "dry_groups",
    "forced",
    "full_groups",
    "last_strategy",
    "narrowed",
    "quick_groups",
    "strategies",
]

HOST_SHAPE = (64, 5_000)
MAIN_LABELS = 131_073
LABELS = (8_192, 32_000, 131_073, 670_091, 2_812_281)
_LEAST_BYTES = 256 << 20  # of the logits, from 8,192 labels on
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# Forward + backward; the same with a grad_output of 1/2; forward without gradient.
MODES = ("step", "scaled", "forward")

_EAGER = ("plain", "float32", "torchvision", "eager")
_COMPILED = (*_EAGER, "float32-compile")
_EVERYTHING = (*_COMPILED, "compile")


@dataclass(frozen=True)
class Group:
    """One shape and dtype: all losses on the same inputs."""

    rows: int
    labels: int
    dtype: str
    peers: tuple[str, ...]
    every_mode: bool = False  # each strategy in each mode, instead of the planner's own choice in some
    losses: tuple[str, ...] | None = None  # None: all of them
    modes: tuple[str, ...] = MODES


def _group(labels: int, dtype: str, peers: tuple[str, ...], every_mode: bool = False) -> Group:
    if labels == HOST_SHAPE[1]:
        return Group(*HOST_SHAPE, dtype, peers, every_mode)
    return Group(-(-_LEAST_BYTES // (labels * _BYTES[dtype])), labels, dtype, peers, every_mode)


def default_groups() -> list[Group]:
    """bfloat16 and float32 at every size, float16 at one; torch.compile at three, for its compile time."""
    others = [labels for labels in LABELS if labels != MAIN_LABELS]
    return [
        _group(MAIN_LABELS, "bfloat16", _COMPILED),
        _group(MAIN_LABELS, "float32", _COMPILED),
        _group(HOST_SHAPE[1], "bfloat16", _EAGER),
        *(_group(labels, "bfloat16", _EAGER) for labels in others[:-1]),
        _group(others[-1], "bfloat16", _COMPILED),
        *(_group(labels, "float32", _EAGER) for labels in others),
        _group(MAIN_LABELS, "float16", _EAGER),
        _group(HOST_SHAPE[1], "float32", _EAGER),
    ]


def full_groups() -> list[Group]:
    """Everything, every peer: half an hour or so, nearly all of it torch.compile's."""
    sizes = (MAIN_LABELS, HOST_SHAPE[1], *(labels for labels in LABELS if labels != MAIN_LABELS))
    return [_group(labels, dtype, _EVERYTHING, True) for dtype in _BYTES for labels in sizes]


def quick_groups() -> list[Group]:
    """This package's kernels alone, in bfloat16: four losses by every strategy at one size, two at the others."""
    modes = ("step", "forward")
    others = (HOST_SHAPE[1], *(labels for labels in LABELS if labels != MAIN_LABELS))
    main = replace(_group(MAIN_LABELS, "bfloat16", (), True), losses=("zlpr", "focal", "bce", "dice"), modes=modes)
    return [main, *(replace(_group(labels, "bfloat16", ()), losses=("zlpr", "bce"), modes=modes) for labels in others)]


def narrowed(
    groups: list[Group], losses: tuple[str, ...] = (), labels: tuple[int, ...] = (), compiled: bool = True
) -> list[Group]:
    """The groups with these losses and labels alone (empty: all), and without peers that a compiler makes.

    Raises:
        ValueError: no group is left.
    """
    found = []
    for group in groups:
        named = losses or group.losses
        if losses and group.losses is not None:
            named = tuple(name for name in losses if name in group.losses)
        if (labels and group.labels not in labels) or (losses and not named):
            continue
        peers = tuple(name for name in group.peers if compiled or "compile" not in name)
        found.append(replace(group, losses=named, peers=peers))
    if not found:
        raise ValueError(f"nothing to measure: losses {losses or 'all'}, labels {labels or 'all'}")
    return found


def dry_groups() -> list[Group]:
    """Tiny shapes through the same code."""
    return [Group(6, 1_001, "bfloat16", _EAGER), Group(4, 500, "float32", _EAGER, True), Group(3, 501, "float16", ())]


# ---- launch strategies ----


@dataclass(frozen=True)
class Strategy:
    """A way to launch that a planner has for a shape. Triton's is one more, whatever its plan is."""

    name: str
    number: int  # what to ask the CUDA engine for; 0 is the planner's own choice
    reads: int  # of the logits, forward and backward together
    words: str  # the plan
    engine: str = "cuda"


def strategies(
    labels: int,
    rows: int,
    dtype: str,
    element_wise: bool,
    mode: str,
    device: Device,
    targets: str = "bool",
    held: bool = True,
    triton: bool = True,
) -> list[Strategy]:
    """Every distinct plan for a shape, the default first: the planner is asked, so that no list of them is kept.

    ``targets``: a dtype or ``"csr"``; ``held``: whether the loss has kernels that hold a row, as no sum has;
    ``triton``: whether the Triton engine's plan is one of them.
    """
    if _extension.launch_plan is None:
        raise RuntimeError("the compiled extension is not installed")
    forms = mode != "forward" and dtype != "float16"  # float16 recomputes its gradient in the backward
    found: dict[str, Strategy] = {}
    grouping = "element" if element_wise else "samples"
    for number in _extension.strategies().values():
        plan = _extension.launch_plan(
            rows, labels, dtype, grouping, targets, forms, capability=device.capability, strategy=number, held=held
        )
        reads = plan["reads"] + (mode != "forward" and not forms)
        found.setdefault(plan["strategy"], Strategy(plan["strategy"], number, reads, plan["forward"]))
    # In a dry run the tensors are the CPU's.
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
    """Loaded without a GPU too, so that a dry run takes this step."""
    path = _extension.library_path("_cuda")
    return ctypes.CDLL(str(path)) if path.exists() else None


def last_strategy() -> str:
    """What the CUDA engine's last forward pass took."""
    library = _library()
    names = {number: name for name, number in _extension.strategies().items()}
    return names.get(library.mlloss_cuda_last_strategy(), "") if library else ""


@contextmanager
def forced(strategy: Strategy | None) -> Iterator[None]:
    """Make every loss launch that way; None leaves it to the planner."""
    if strategy is not None and strategy.engine == "triton":
        with use_backend("triton"):
            yield
        return
    library = _library()
    ask = library.mlloss_cuda_strategy if library else lambda number: number
    ask(strategy.number if strategy else 0)
    try:
        yield
    finally:
        ask(0)
