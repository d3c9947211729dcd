"""From a call's shape and a device's facts to how the kernels are launched."""

from __future__ import annotations

from typing import Final, NamedTuple

from .tuning import DeviceFacts, Size, size_of

__all__ = [
    "STRATEGIES",
    "Plan",
    "Shape",
    "plan_down_rows",
    "plan_rows",
    "plan_units",
    "power_of_two",
    "reads_from_memory",
]

GROUP: Final = 16  # of tile.py: elements of an access or two, on whose boundaries tiles begin
LEAST_COLUMNS: Final = 16
MOST_ROWS: Final = 64  # of a tile
MANY_STATISTICS: Final = 12  # of a compound: beyond, a thread's registers hold fewer elements of each
DOWN_COLUMNS: Final = 128  # of a tile that goes down the rows: two or more accesses that lie together
STRATEGIES: Final = ("automatic", "streaming", "split")

# What tests and benchmarks ask for: a strategy, and a tile's size. Not for users.
forced_strategy: str = "automatic"
forced_size: Size | None = None


class Shape(NamedTuple):
    """Of the logits, and of what is kept of their rows."""

    rows: int
    labels: int
    itemsize: int
    aligned: bool  # every row begins on a boundary of GROUP elements
    statistics: int = 0  # maxima and sums of a compound


class Plan(NamedTuple):
    """A tile is ``rows`` x ``columns``; ``tiles`` of them make a row, ``splits`` programs share it."""

    strategy: str
    rows: int
    columns: int
    warps: int
    registers: int | None
    tiles: int
    splits: int
    run: int  # tiles of a split, or rows
    programs: int

    def __str__(self) -> str:
        return (
            f"{self.strategy}: {self.programs} programs of {self.warps} warps, tiles of {self.rows} x {self.columns}, "
            f"{self.tiles} a row"
        )


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least that is not below ``n``."""
    return 1 << max(0, n - 1).bit_length()


def _size(shape: Shape, facts: DeviceFacts, work: str) -> Size:
    if shape.statistics and work == "rows":
        work = "compounds"
    size = size_of(facts.family, work, shape.itemsize)
    return size._replace(elements=size.elements // 2) if shape.statistics > MANY_STATISTICS else size


def _tile(shape: Shape, facts: DeviceFacts, work: str) -> tuple[int, int, int, int | None, int]:
    """Rows, columns, warps, registers and tiles a row. Short rows share a tile; what is left of it is not idle."""
    size = forced_size or _size(shape, facts, work)
    length = shape.labels + (0 if shape.aligned else GROUP - 1)
    columns = max(LEAST_COLUMNS, min(size.elements, power_of_two(length)))
    rows = max(1, min(size.elements // columns, MOST_ROWS, power_of_two(shape.rows)))
    warps = max(1, size.warps * rows * columns // size.elements)
    return rows, columns, warps, size.registers, _divide_up(length, columns) if shape.labels else 0


def plan_units(shape: Shape, facts: DeviceFacts) -> Plan:
    """A program a tile, in any order."""
    rows, columns, warps, registers, tiles = _tile(shape, facts, "units")
    return Plan("units", rows, columns, warps, registers, tiles, tiles, 1, _divide_up(shape.rows, rows) * tiles)


def _few_long_rows(shape: Shape, facts: DeviceFacts) -> bool:
    """Programs that own rows would leave most of the device idle."""
    return shape.rows * 2 <= facts.processors and shape.labels * shape.itemsize >= 1 << 17


def _streaming_programs(shape: Shape, facts: DeviceFacts, rows: int, warps: int) -> int:
    """As few rows in flight as keep the device busy, if that lets the second read come from L2."""
    block = max(1, rows * shape.labels * shape.itemsize)
    most = facts.processors * max(1, 32 // warps)
    in_l2 = facts.l2_bytes * 2 // 5 // block
    if in_l2 >= facts.processors:
        return min(in_l2, most)
    return facts.processors if block * facts.processors <= facts.l2_bytes else most


def plan_rows(
    shape: Shape, facts: DeviceFacts, everything: bool = False, late: bool = False, alone: bool = False
) -> Plan:
    """Statistics of rows (or of ``everything``), and what follows from them. ``late``: sums that need them complete
    follow too, and so rows are not split. ``alone``: nothing follows."""
    rows, columns, warps, registers, tiles = _tile(shape, facts, "rows")
    blocks = _divide_up(shape.rows, rows)
    if everything:
        splits = max(1, min(blocks, 8 * facts.processors))
        return Plan("split", rows, columns, warps, registers, tiles, splits, tiles, splits)
    strategy = forced_strategy
    if late:
        strategy = "streaming"
    if alone:
        strategy = "split"
    if strategy == "automatic":
        strategy = "split" if _few_long_rows(shape, facts) else "streaming"
    if strategy == "streaming":
        programs = min(blocks, _streaming_programs(shape, facts, rows, warps))
        return Plan("streaming", rows, columns, warps, registers, tiles, 1, tiles, programs)
    # As many programs as hide the loads' latency on every multiprocessor.
    wanted = _divide_up(8 * facts.processors, max(1, blocks))
    run = max(1, _divide_up(tiles, wanted))
    splits = max(1, _divide_up(tiles, run))
    return Plan("split", rows, columns, warps, registers, tiles, splits, run, blocks * splits)


def reads_from_memory(plan: Plan, shape: Shape, facts: DeviceFacts) -> int:
    """How often the logits come from memory when a gradient is formed: the rows in flight may stay in L2."""
    if plan.strategy == "units":
        return 1
    in_flight = plan.programs * plan.rows * shape.labels * shape.itemsize
    return 1 if plan.strategy == "streaming" and in_flight <= facts.l2_bytes else 2


def plan_down_rows(shape: Shape, facts: DeviceFacts) -> Plan:
    """Sums over rows: a program takes ``run`` rows of a block of labels."""
    size = forced_size or _size(shape, facts, "units")
    widest = forced_size.elements if forced_size else DOWN_COLUMNS
    columns = max(LEAST_COLUMNS, min(widest, power_of_two(shape.labels)))
    rows = max(1, min(size.elements // columns, power_of_two(shape.rows)))
    blocks = _divide_up(shape.labels, columns)
    splits = max(1, min(_divide_up(shape.rows, rows), 4 * facts.processors // max(1, blocks)))
    run = _divide_up(_divide_up(shape.rows, splits), rows) * rows
    splits = max(1, _divide_up(shape.rows, run)) if run else 1
    warps = max(1, size.warps * rows * columns // size.elements)
    return Plan("split", rows, columns, warps, size.registers, 1, splits, run, blocks * splits)
