"""A table of tile sizes by the work of a kernel, the bytes of an element, and the device family.

There is no tuning at run time. ``python -m bench.gpu.tune`` measures candidates on a GPU; its results belong here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["DeviceFacts", "Size", "family_of", "size_of"]


class Size(NamedTuple):
    """Elements of a tile, the warps that share them, and the limit of registers for a thread (None: no limit)."""

    elements: int
    warps: int
    registers: int | None = None


class DeviceFacts(NamedTuple):
    """The facts about a device that plans depend on."""

    family: str  # "cuda", "hip", "rdna" or "xpu", followed by the capability if the table has an entry for it
    processors: int
    l2_bytes: int


# "rows": a program processes whole rows, and holds the partial sums of a tile in registers; "compounds": the same with
# the sums of several losses; "units": tiles in any order. The keys are bytes of an element. The sizes are not measured
# yet: they are chosen so that a thread has one or two accesses of 16 bytes in flight and no registers are spilled.
# Without a limit ptxas spills a few registers to fit one more block.
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
    """Return the tile size for a kind of work, from the entry of the family or else of its kind of device."""
    table = _TABLE.get(family) or _TABLE[family.rstrip("0123456789")]
    return table[work][itemsize]


def family_of(kind: str, capability: int | None) -> str:
    """Return the name of the device family in the table."""
    return f"{kind}{capability}" if f"{kind}{capability}" in _TABLE else kind
