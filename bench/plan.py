"""The description of what is timed: shape, dtype, implementations; and the plan of ``python -m bench`` on a CPU.

The most informative tables come first, since time may run out. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

__all__ = [
    "MAIN_SHAPE",
    "SMALL_SHAPE",
    "Section",
    "Table",
    "default_sections",
    "full_sections",
    "one_shape",
    "quick_sections",
    "shape_of",
]

AnyTable = TypeVar("AnyTable", bound="Table")

MAIN_SHAPE, SMALL_SHAPE = (64, 131_072), (64, 5_000)
# From L = 131,072 on, shapes have as many logits as that one, so that a peer that takes ten times its input fits.
_CURVE = ((64, 32_768), (8, 1_048_576))
_FULL_CURVE = (SMALL_SHAPE, (64, 32_768), MAIN_SHAPE, (12, 670_091), (3, 2_812_281))

_OURS = ("fused", "floating", "csr", "inplace")
_PEERS = ("eager", "plain", "torchvision", "monai")
_COMPILED = ("compile", "plain-compile")
# 16-bit logits are converted to float32 for the formulas, as autocast does; otherwise they would be wrong.
_LOW_PEERS, _LOW_COMPILED = ("eager", "float32"), ("compile", "float32-compile")


def shape_of(rows: int, labels: int) -> str:
    """Return a shape as tables show it."""
    return f"{rows} x {labels:,}"


@dataclass(frozen=True)
class Table:
    """One table of times: implementations of losses at one shape and dtype. A CPU's and a GPU's are kinds of it."""

    rows: int
    labels: int
    dtype: str
    names: tuple[str, ...]  # implementations; on a GPU the peers alone, since ours depend on the strategies

    def __str__(self) -> str:
        return f"{shape_of(self.rows, self.labels)}, {self.dtype}"

    def without(self: AnyTable, words: Iterable[str]) -> AnyTable:
        """Return this table without the implementations whose name contains one of these words."""
        return replace(self, names=_without(self.names, words))


def _without(names: tuple[str, ...], words: Iterable[str]) -> tuple[str, ...]:
    words = tuple(words)
    return tuple(name for name in names if not any(word in name for word in words))


@dataclass(frozen=True)
class Section(Table):
    """One table of times on a CPU, and the memory beside it."""

    cases: str  # "main", "others" or "all"
    rounds: int
    seconds: float  # for one case, once it has had enough rounds
    memory: tuple[str, ...] = ()  # implementations whose memory is measured too

    def without(self, words: Iterable[str]) -> Section:
        """Return this section without the implementations whose name contains one of these words."""
        return replace(self, names=_without(self.names, words), memory=_without(self.memory, words))


def _section(
    shape: tuple[int, int], dtype: str, cases: str, peers: tuple[str, ...], rounds: int = 30, seconds: float = 3.0
) -> Section:
    names = ("copy", *_OURS, *peers)
    return Section(*shape, dtype, names, cases, rounds, seconds, names[1:])


def default_sections() -> list[Section]:
    """Return the sections of ``make bench``: five minutes on two cores, most of them torch.compile's."""
    small = ("copy", "fused", "csr", "eager", "plain")
    curve = ("copy", "fused", "csr", "plain", "plain-compile")
    return [
        _section(MAIN_SHAPE, "float32", "main", (*_PEERS, *_COMPILED), 45, 6.0),
        Section(*SMALL_SHAPE, "float32", small, "all", 200, 1.0),
        _section(MAIN_SHAPE, "bfloat16", "main", (*_LOW_PEERS, "float32-compile")),
        _section(MAIN_SHAPE, "float32", "others", _PEERS),
        *(Section(*shape, "float32", curve, "main", 30, 3.0, curve[1:]) for shape in _CURVE),
        Section(*MAIN_SHAPE, "bfloat16", ("copy", "fused", "csr", "float32"), "others", 30, 2.0),
    ]


def full_sections() -> list[Section]:
    """Return the sections of ``make bench FULL=1``: every loss, shape, dtype, layout and peer.

    They take an hour and a half, most of it torch.compile's.
    """
    sections = []
    for dtype in ("float32", "bfloat16", "float16"):
        peers = (*_PEERS, *_COMPILED) if dtype == "float32" else (*_LOW_PEERS, *_LOW_COMPILED)
        # The shape that gates are about comes first.
        shapes = sorted(_FULL_CURVE, key=lambda shape: shape != MAIN_SHAPE)
        sections += [_section(shape, dtype, "all", peers, 45 if shape != SMALL_SHAPE else 300, 6.0) for shape in shapes]
    return sections


def one_shape(shape: tuple[int, int], dtypes: Iterable[str]) -> list[Section]:
    """Return every implementation at one shape."""
    return [
        _section(shape, dtype, "all", (*_PEERS, *_COMPILED) if dtype == "float32" else (*_LOW_PEERS, *_LOW_COMPILED))
        for dtype in dtypes
    ]


def quick_sections(shape: tuple[int, int], dtypes: Iterable[str]) -> list[Section]:
    """Return three rounds of every implementation but torch.compile's, which show whether it runs."""
    return [replace(section.without(("compile",)), rounds=3) for section in one_shape(shape, dtypes)]
