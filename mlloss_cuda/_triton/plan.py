"""Launch plans from a call's shape and a device's facts."""

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

GROUP: Final = 16  # elements of one or two accesses; tiles begin on multiples of this (tile.py)
LEAST_COLUMNS: Final = 16
MOST_ROWS: Final = 64  # rows of a tile
MANY_STATISTICS: Final = 12  # a compound with more statistics has smaller tiles, to fit a thread's registers
DOWN_COLUMNS: Final = 128  # columns of a tile that goes down the rows: two or more contiguous accesses
STRATEGIES: Final = ("automatic", "streaming", "split")

# Tests and benchmarks set these to force a strategy and the size of a tile. They are not public.
forced_strategy: str = "automatic"
forced_size: Size | None = None


class Shape(NamedTuple):
    """The shape of the logits, and the number of statistics of their rows."""

    rows: int
    labels: int
    itemsize: int
    aligned: bool  # every row begins on a boundary of GROUP elements
    statistics: int = 0  # maxima and sums of a compound


class Plan(NamedTuple):
    """The launch of a kernel: tiles of ``rows`` x ``columns``, ``tiles`` in a row, shared by ``splits`` programs."""

    strategy: str
    rows: int
    columns: int
    warps: int
    registers: int | None
    tiles: int
    splits: int
    run: int  # tiles (or rows) of a split
    programs: int

    def __str__(self) -> str:
        return (
            f"{self.strategy}: {self.programs} programs of {self.warps} warps, tiles of {self.rows} x {self.columns}, "
            f"{self.tiles} a row"
        )


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """Return the smallest power of two >= ``n``."""
    return 1 << max(0, n - 1).bit_length()


def _size(shape: Shape, facts: DeviceFacts, work: str) -> Size:
    if shape.statistics and work == "rows":
        work = "compounds"
    size = size_of(facts.family, work, shape.itemsize)
    return size._replace(elements=size.elements // 2) if shape.statistics > MANY_STATISTICS else size


def _tile(shape: Shape, facts: DeviceFacts, work: str) -> tuple[int, int, int, int | None, int]:
    """Return rows, columns, warps and registers of a tile, and the tiles of a row. Short rows share a tile."""
    size = forced_size or _size(shape, facts, work)
    length = shape.labels + (0 if shape.aligned else GROUP - 1)
    columns = max(LEAST_COLUMNS, min(size.elements, power_of_two(length)))
    rows = max(1, min(size.elements // columns, MOST_ROWS, power_of_two(shape.rows)))
    warps = max(1, size.warps * rows * columns // size.elements)
    return rows, columns, warps, size.registers, _divide_up(length, columns) if shape.labels else 0


def plan_units(shape: Shape, facts: DeviceFacts) -> Plan:
    """Plan one program for each tile, in any order."""
    rows, columns, warps, registers, tiles = _tile(shape, facts, "units")
    return Plan("units", rows, columns, warps, registers, tiles, tiles, 1, _divide_up(shape.rows, rows) * tiles)


def _few_long_rows(shape: Shape, facts: DeviceFacts) -> bool:
    """Return whether one program for each row would leave most of the device idle."""
    return shape.rows * 2 <= facts.processors and shape.labels * shape.itemsize >= 1 << 17


def _streaming_programs(shape: Shape, facts: DeviceFacts, rows: int, warps: int) -> int:
    """Return the number of programs, reduced as far as the device stays busy if the second read then comes from L2."""
    block = max(1, rows * shape.labels * shape.itemsize)
    most = facts.processors * max(1, 32 // warps)
    in_l2 = facts.l2_bytes * 2 // 5 // block
    if in_l2 >= facts.processors:
        return min(in_l2, most)
    return facts.processors if block * facts.processors <= facts.l2_bytes else most


def plan_rows(
    shape: Shape, facts: DeviceFacts, one_group: bool = False, second_pass: bool = False, statistics_only: bool = False
) -> Plan:
    """Plan the statistics of rows (of the whole batch if ``one_group``), and the gradient.

    ``second_pass``: second-pass sums follow, so rows are not split. ``statistics_only``: only statistics are needed.
    """
    rows, columns, warps, registers, tiles = _tile(shape, facts, "rows")
    blocks = _divide_up(shape.rows, rows)
    if one_group:
        splits = max(1, min(blocks, 8 * facts.processors))
        return Plan("split", rows, columns, warps, registers, tiles, splits, tiles, splits)
    strategy = forced_strategy
    if second_pass:
        strategy = "streaming"
    if statistics_only:
        strategy = "split"
    if strategy == "automatic":
        strategy = "split" if _few_long_rows(shape, facts) else "streaming"
    if strategy == "streaming":
        programs = min(blocks, _streaming_programs(shape, facts, rows, warps))
        return Plan("streaming", rows, columns, warps, registers, tiles, 1, tiles, programs)
    # Enough programs to hide the latency of loads on every multiprocessor.
    wanted = _divide_up(8 * facts.processors, max(1, blocks))
    run = max(1, _divide_up(tiles, wanted))
    splits = max(1, _divide_up(tiles, run))
    return Plan("split", rows, columns, warps, registers, tiles, splits, run, blocks * splits)


def reads_from_memory(plan: Plan, shape: Shape, facts: DeviceFacts) -> int:
    """Count reads of the logits from memory when a gradient is formed; the rows in flight may stay in L2."""
    if plan.strategy == "units":
        return 1
    in_flight = plan.programs * plan.rows * shape.labels * shape.itemsize
    return 1 if plan.strategy == "streaming" and in_flight <= facts.l2_bytes else 2


def plan_down_rows(shape: Shape, facts: DeviceFacts) -> Plan:
    """Plan sums over rows: a program processes ``run`` rows of a block of labels."""
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
