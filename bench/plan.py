"""What ``python -m bench`` measures on a CPU, the most telling first, since time may run out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["MAIN_SHAPE", "SMALL_SHAPE", "Section", "default_sections", "full_sections", "one_shape", "quick_sections"]

MAIN_SHAPE, SMALL_SHAPE = (64, 131_072), (64, 5_000)
# From L = 131,072 on as many logits as there, so that a peer that takes ten times its input finds room.
_CURVE = ((64, 32_768), (8, 1_048_576))
_FULL_CURVE = (SMALL_SHAPE, (64, 32_768), MAIN_SHAPE, (12, 670_091), (3, 2_812_281))

_OURS = ("fused", "floating", "csr", "inplace")
_PEERS = ("eager", "plain", "torchvision", "monai")
_COMPILED = ("compile", "plain-compile")
# In 16 bits the formulas are right in float32 only, as autocast runs them.
_LOW_PEERS, _LOW_COMPILED = ("eager", "float32"), ("compile", "float32-compile")


@dataclass(frozen=True)
class Section:
    """One table of times, and the memory beside it."""

    rows: int
    labels: int
    dtype: str
    cases: str  # "main", "others" or "all"
    names: tuple[str, ...]
    rounds: int
    seconds: float  # for one case, once it has rounds enough
    memory: tuple[str, ...] = ()  # of whom memory is measured too

    def without(self, words: Iterable[str]) -> Section:
        """The same without competitors whose name has one of these words in it."""
        words = tuple(words)
        keep = [tuple(n for n in names if not any(word in n for word in words)) for names in (self.names, self.memory)]
        return replace(self, names=keep[0], memory=keep[1])


def _section(
    shape: tuple[int, int], dtype: str, cases: str, peers: tuple[str, ...], rounds: int = 30, seconds: float = 3.0
) -> Section:
    names = ("copy", *_OURS, *peers)
    return Section(*shape, dtype, cases, names, rounds, seconds, names[1:])


def default_sections() -> list[Section]:
    """``make bench``: five minutes on two cores, most of them torch.compile's."""
    small = ("copy", "fused", "csr", "eager", "plain")
    curve = ("copy", "fused", "csr", "plain", "plain-compile")
    return [
        _section(MAIN_SHAPE, "float32", "main", (*_PEERS, *_COMPILED), 45, 6.0),
        Section(*SMALL_SHAPE, "float32", "all", small, 200, 1.0),
        _section(MAIN_SHAPE, "bfloat16", "main", (*_LOW_PEERS, "float32-compile")),
        _section(MAIN_SHAPE, "float32", "others", _PEERS),
        *(Section(*shape, "float32", "main", curve, 30, 3.0, curve[1:]) for shape in _CURVE),
        Section(*MAIN_SHAPE, "bfloat16", "others", ("copy", "fused", "csr", "float32"), 30, 2.0),
    ]


def full_sections() -> list[Section]:
    """``make bench-full``: every loss, shape, dtype, layout and peer. An hour and a half, mostly torch.compile's."""
    sections = []
    for dtype in ("float32", "bfloat16", "float16"):
        peers = (*_PEERS, *_COMPILED) if dtype == "float32" else (*_LOW_PEERS, *_LOW_COMPILED)
        # The one whose gates count first.
        shapes = sorted(_FULL_CURVE, key=lambda shape: shape != MAIN_SHAPE)
        sections += [_section(shape, dtype, "all", peers, 45 if shape != SMALL_SHAPE else 300, 6.0) for shape in shapes]
    return sections


def one_shape(shape: tuple[int, int], dtypes: Iterable[str]) -> list[Section]:
    """Everybody at one shape."""
    return [
        _section(shape, dtype, "all", (*_PEERS, *_COMPILED) if dtype == "float32" else (*_LOW_PEERS, *_LOW_COMPILED))
        for dtype in dtypes
    ]


def quick_sections(shape: tuple[int, int], dtypes: Iterable[str]) -> list[Section]:
    """Everybody but torch.compile, three rounds: does it run?"""
    return [replace(section.without(("compile",)), rounds=3) for section in one_shape(shape, dtypes)]
