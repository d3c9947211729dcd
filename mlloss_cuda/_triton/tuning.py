"""Sizes of tiles, as a table: by what a kernel does, bytes an element, and device family.

Nothing is tuned while a user's program runs. ``python -m bench.gpu.tune`` measures the candidates on a GPU; what
it finds belongs here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["DeviceFacts", "Size", "family_of", "size_of"]


class Size(NamedTuple):
    """Elements of a tile, the warps that share them, and the registers that a thread may take (None: any number)."""

    elements: int
    warps: int
    registers: int | None = None


class DeviceFacts(NamedTuple):
    """What plans are made from."""

    family: str  # "cuda", "hip", "rdna" or "xpu", with the capability where the table knows it
    processors: int
    l2_bytes: int


# "rows": a program takes whole rows, and holds the partial sums of a tile in registers; "compounds": those of several
# losses. "units": tiles in any order. Bytes an element -> size. Not measured yet: chosen so that a thread has one or
# two accesses of 16 bytes on their way, and no registers are spilled. Without a bound ptxas spills a few, to fit one
# more block.
_TABLE: Final[dict[str, dict[str, dict[int, Size]]]] = {
    "cuda": {
        "rows": {2: Size(4096, 16, 128), 4: Size(4096, 16, 128), 8: Size(1024, 8, 255)},
        "compounds": {2: Size(1024, 4, 255), 4: Size(1024, 8, 255), 8: Size(512, 8, 255)},
        "units": {2: Size(2048, 8, 168), 4: Size(2048, 8, 168), 8: Size(1024, 8, 255)},
    },
    "hip": {  # 64 threads a warp
        "rows": {2: Size(4096, 8), 4: Size(4096, 8), 8: Size(1024, 4)},
        "compounds": {2: Size(2048, 4), 4: Size(2048, 8), 8: Size(512, 4)},
        "units": {2: Size(2048, 4), 4: Size(2048, 4), 8: Size(1024, 4)},
    },
    "rdna": {  # AMD's with 32 threads a warp
        "rows": {2: Size(2048, 8), 4: Size(2048, 8), 8: Size(512, 4)},
        "compounds": {2: Size(1024, 4), 4: Size(1024, 8), 8: Size(256, 4)},
        "units": {2: Size(1024, 4), 4: Size(1024, 4), 8: Size(512, 4)},
    },
    "xpu": {
        "rows": {2: Size(4096, 16), 4: Size(2048, 16), 8: Size(512, 8)},
        "compounds": {2: Size(2048, 16), 4: Size(1024, 16), 8: Size(256, 8)},
        "units": {2: Size(2048, 8), 4: Size(1024, 8), 8: Size(512, 8)},
    },
}


def size_of(family: str, work: str, itemsize: int) -> Size:
    """The tile for a kind of work; of the family itself where the table has it, else of its kind."""
    table = _TABLE.get(family) or _TABLE[family.rstrip("0123456789")]
    return table[work][itemsize]


def family_of(kind: str, capability: int | None) -> str:
    """As the table names it."""
    return f"{kind}{capability}" if f"{kind}{capability}" in _TABLE else kind
