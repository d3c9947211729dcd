"""The tables of times that ``make gpu`` measures: shapes, dtypes, losses and peers, the most informative first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..plan import Table

__all__ = [
    "HOST_SHAPE",
    "MAIN_LABELS",
    "MODES",
    "Group",
    "default_groups",
    "dry_groups",
    "full_groups",
    "narrowed",
    "quick_groups",
]

HOST_SHAPE = (64, 5_000)
MAIN_LABELS = 131_073
LABELS = (8_192, 32_000, 131_073, 670_091, 2_812_281)
_LEAST_BYTES = 256 << 20  # the least size of the logits, from 8,192 labels on
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# Forward + backward; the same with a grad_output of 1/2; forward without gradient.
MODES = ("step", "scaled", "forward")

_EAGER = ("plain", "float32", "torchvision", "eager")
_COMPILED = (*_EAGER, "float32-compile")
_EVERYTHING = (*_COMPILED, "compile")


@dataclass(frozen=True)
class Group(Table):
    """One table of times on a GPU: all losses on the same inputs, ours by launch strategy and mode."""

    every_mode: bool = False  # whether each strategy is timed in each mode, or in some modes the planner's choice alone
    losses: tuple[str, ...] | None = None  # None: all of them
    modes: tuple[str, ...] = MODES


def _group(labels: int, dtype: str, peers: tuple[str, ...], every_mode: bool = False) -> Group:
    if labels == HOST_SHAPE[1]:
        return Group(*HOST_SHAPE, dtype, peers, every_mode)
    return Group(-(-_LEAST_BYTES // (labels * _BYTES[dtype])), labels, dtype, peers, every_mode)


def default_groups() -> list[Group]:
    """Return bfloat16 and float32 at every size, float16 at one; torch.compile at three, since it compiles slowly."""
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
    """Return every size and peer: about half an hour, nearly all of it torch.compile's."""
    sizes = (MAIN_LABELS, HOST_SHAPE[1], *(labels for labels in LABELS if labels != MAIN_LABELS))
    return [_group(labels, dtype, _EVERYTHING, True) for dtype in _BYTES for labels in sizes]


def quick_groups() -> list[Group]:
    """Return this package's kernels in bfloat16: four losses by every strategy at one size, two at the others."""
    modes = ("step", "forward")
    others = (HOST_SHAPE[1], *(labels for labels in LABELS if labels != MAIN_LABELS))
    main = replace(_group(MAIN_LABELS, "bfloat16", (), True), losses=("zlpr", "focal", "bce", "dice"), modes=modes)
    return [main, *(replace(_group(labels, "bfloat16", ()), losses=("zlpr", "bce"), modes=modes) for labels in others)]


def dry_groups() -> list[Group]:
    """Return tiny shapes that run the same code."""
    return [Group(6, 1_001, "bfloat16", _EAGER), Group(4, 500, "float32", _EAGER, True), Group(3, 501, "float16", ())]


def narrowed(
    groups: list[Group], losses: tuple[str, ...] = (), labels: tuple[int, ...] = (), compiled: bool = True
) -> list[Group]:
    """Return the groups with these losses and labels alone (empty: all), with or without torch.compile's peers.

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
        found.append(replace(group if compiled else group.without(("compile",)), losses=named))
    if not found:
        raise ValueError(f"nothing to measure: losses {losses or 'all'}, labels {labels or 'all'}")
    return found
