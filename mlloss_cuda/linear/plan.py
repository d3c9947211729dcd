"""How a step of the head is cut into chunks: an account in plain numbers, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

__all__ = ["ALIGNMENT", "Demand", "LinearPlan", "Part", "default_budget", "make_plan"]

ALIGNMENT: Final = 64  # of a chunk's leading dimension: products at odd ones are slow
_LEAST_BUDGET: Final = 64 << 20
_MEMORY_FOR_SPEED: Final = 1.25  # a float32 sum of bfloat16 gradients, by rows, is more than that
_ABOUT_AS_FAST: Final = 1.05
# Operations that take as long as a byte, roughly, of float32 and of narrower products: what chunks by rows save in
# products, against what they move.
_OPERATIONS_A_BYTE: Final = {"cpu": (10.0, 25.0), "cuda": (15.0, 150.0)}

# "rows" or "labels": what tests ask for, where the loss allows it.
forced_direction: str | None = None


class Part(NamedTuple):
    """A chunk of the logits."""

    rows: slice
    labels: slice


@dataclass(frozen=True)
class Demand:
    """What a plan is for."""

    rows: int
    labels: int
    features: int
    itemsize: int  # of what is multiplied: input, logits
    weight_itemsize: int
    bias: bool
    device_type: str
    passes: int  # over a chunk of logits
    within_rows: bool  # no group of the loss leaves its row
    within_labels: bool  # nor its label
    sharded: bool  # labels are one rank's: what no group leaves may still span ranks
    parts: bool  # the backend takes parts of the labels, and writes gradients between padding
    late_sums: bool  # they take one more sweep
    statistics: int  # numbers a group
    training: bool = True
    late: bool = False  # the gradient is formed in the backward
    scratch: int = 0  # bytes for each weight of a block that a fused update steps; 0: no such update
    strip: int = 0  # and bytes besides
    memory_budget: int | None = None
    chunk_size: int | None = None

    @property
    def budget(self) -> int:
        """For logits; and as much again for weights that are converted or stepped."""
        return self.memory_budget or default_budget(self.labels * self.features * self.weight_itemsize)

    @property
    def buffers(self) -> int:
        """Chunks of logits that stand at a time: the logits, their gradient so far, a pass's."""
        return min(self.passes, 3)

    @property
    def low(self) -> bool:
        """Whether sums of products are taken in a wider type than theirs."""
        return self.itemsize < 4


@dataclass(frozen=True)
class LinearPlan:
    """How one forward and backward runs; what ``LinearLoss.plan(B)`` shows.

    ``peak_bytes`` is what is allocated at the worst moment, gradients included, beside what the caller
    holds (input, weight, bias, targets). ``traffic_bytes`` is what products and losses read and write,
    nothing of it found in a cache.
    """

    rows: int
    labels: int
    features: int
    by: str  # "rows" or "labels"
    chunk_size: int  # rows, or labels, in a chunk
    chunks: int
    block_size: int  # labels whose weights are converted, or stepped, at a time
    matrix_products: int  # of a forward and backward
    keeps_logits: bool  # from the forward to the backward
    within: bool  # every group of the loss lies within a chunk
    padded: bool = True  # a chunk's leading dimension is a multiple of 64
    sharded: bool = False  # labels are one rank's, of several
    peak_bytes: int = 0
    traffic_bytes: int = 0

    def parts(self) -> Iterator[Part]:
        """The chunks, in order."""
        whole = self.rows if self.by == "rows" else self.labels
        for start in range(0, max(whole, 1), self.chunk_size):  # a rank may have no labels, and has its part
            own = slice(start, min(start + self.chunk_size, whole))
            yield Part(own, slice(0, self.labels)) if self.by == "rows" else Part(slice(0, self.rows), own)

    def blocks(self, labels: slice) -> Iterator[slice]:
        """A chunk's labels, as many at a time as may be converted or stepped."""
        for start in range(labels.start, max(labels.stop, labels.start + 1), self.block_size):
            yield slice(start, min(start + self.block_size, labels.stop))

    def leading(self, columns: int) -> int:
        """The leading dimension of a chunk of so many columns."""
        return aligned(columns) if self.padded else columns

    def __str__(self) -> str:
        kept = ", logits kept" if self.keeps_logits else ""
        return (
            f"{self.rows} x {self.labels:,} logits of {self.features} features by {self.by}: {self.chunks} "
            f"{'chunk' if self.chunks == 1 else 'chunks'} of {self.chunk_size:,} {self.by}, "
            f"{self.matrix_products} matrix products{kept}, peak {self.peak_bytes / 2**20:,.0f} MiB, "
            f"{self.traffic_bytes / 2**30:,.2f} GiB moved"
        )


def default_budget(weight_bytes: int) -> int:
    """For logits: a sixteenth of the weights' bytes, never under 64 MiB."""
    return max(_LEAST_BUDGET, weight_bytes // 16)


def aligned(size: int) -> int:
    """The multiple of 64 that holds so many."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_plan(demand: Demand) -> LinearPlan:
    """Of plans that need about the least memory, the fastest, or one about as fast that needs less; in chunks of
    the size asked for.
    """
    plans = [_finished(plan, demand) for plan in _candidates(demand)]
    least = min(plan.peak_bytes for plan in plans)
    plans = [plan for plan in plans if plan.peak_bytes <= _MEMORY_FOR_SPEED * least]
    cheap = _ABOUT_AS_FAST * min(_cost(plan, demand) for plan in plans)
    best = min((plan for plan in plans if _cost(plan, demand) <= cheap), key=lambda plan: plan.peak_bytes)
    if demand.chunk_size is None or not (demand.parts or best.by == "rows"):
        return best
    whole = demand.rows if best.by == "rows" else demand.labels
    return _finished(_plan(demand, best.by, min(demand.chunk_size, whole)), demand)


def _cost(plan: LinearPlan, demand: Demand) -> float:
    """Bytes, and operations at so many a byte."""
    rate = _OPERATIONS_A_BYTE.get(demand.device_type, _OPERATIONS_A_BYTE["cuda"])[demand.low]
    product = 2.0 * demand.rows * demand.labels * demand.features
    return plan.traffic_bytes + plan.matrix_products * product / rate


def _candidates(demand: Demand) -> Iterator[LinearPlan]:
    an_element = demand.itemsize * demand.buffers
    a_row = aligned(demand.labels) * an_element
    # Weights that step chunk by chunk must not be needed by another chunk.
    ways = {"labels": demand.parts, "rows": demand.within_rows and not demand.scratch}
    if forced_direction is not None:
        ways = {forced_direction: ways[forced_direction]}
    elif demand.rows * a_row <= demand.budget:
        ways = {}
    if ways.get("labels"):
        a_column = max(1, demand.rows * an_element)
        most = max(ALIGNMENT, demand.budget // a_column // ALIGNMENT * ALIGNMENT)
        yield _plan(demand, "labels", min(aligned(_even(demand.labels, most)), demand.labels))
    if ways.get("rows"):
        yield _plan(demand, "rows", _even(demand.rows, max(1, demand.budget // max(1, a_row))))
    if not any(ways.values()) or (demand.memory_budget is None and forced_direction is None):
        yield _plan(demand, "labels", demand.labels)  # whole: a budget that nobody asked for gives way to speed


def _even(whole: int, most: int) -> int:
    """The size of chunks of nearly one size, of at most ``most``."""
    chunks = -(-whole // most)
    return -(-whole // max(chunks, 1))


def _plan(demand: Demand, by: str, size: int) -> LinearPlan:
    whole = max(demand.rows if by == "rows" else demand.labels, 1)
    size = max(size, 1)
    chunks = -(-whole // size)
    within = _is_within(demand, by, chunks)
    kept = demand.training and chunks == 1 and (demand.late or not within)
    products = 1
    if not within and demand.late_sums and chunks > 1:
        products += 1
    if demand.training:
        products += 2 if kept or (within and not demand.late) else 3
    return LinearPlan(
        demand.rows,
        demand.labels,
        demand.features,
        by,
        size,
        chunks,
        _block(demand, size if by == "labels" else demand.labels, chunks, by),
        products,
        kept,
        within,
        demand.parts,
        demand.sharded,
    )


def _is_within(demand: Demand, by: str, chunks: int) -> bool:
    if by == "rows" and chunks > 1:
        return demand.within_rows
    return demand.within_labels or (chunks == 1 and not demand.sharded)


def _a_weight(demand: Demand, chunks: int, by: str) -> int:
    """Bytes for each weight of a block: converted ones, a product on its way to where it is added or stepped."""
    converted = demand.itemsize if demand.weight_itemsize != demand.itemsize else 0
    if not demand.training:
        return converted
    if demand.scratch:
        return converted + demand.scratch
    added = by == "rows" and chunks > 1 and demand.low
    return converted + (demand.itemsize if added or converted else 0)


def _block(demand: Demand, labels: int, chunks: int, by: str) -> int:
    a_label = _a_weight(demand, chunks, by) * demand.features
    labels = max(labels, 1)
    return labels if a_label == 0 else min(labels, max(ALIGNMENT, demand.budget // a_label // ALIGNMENT * ALIGNMENT))


def _finished(plan: LinearPlan, demand: Demand) -> LinearPlan:
    return replace(plan, peak_bytes=_peak(plan, demand), traffic_bytes=_traffic(plan, demand))


def _peak(plan: LinearPlan, demand: Demand) -> int:
    rows, labels = (plan.chunk_size, demand.labels) if plan.by == "rows" else (demand.rows, plan.chunk_size)
    size = demand.itemsize
    chunk = rows * aligned(labels) * size + (demand.buffers - 1) * rows * labels * size
    statistics = 0 if plan.within else 8 * plan.chunks * demand.statistics * demand.rows
    block = plan.block_size * _a_weight(demand, plan.chunks, plan.by) * demand.features
    if not demand.training:
        return chunk + statistics + block
    # The input's gradient, the sum it is taken in, and a product on its way there.
    visits = -(-labels // plan.block_size) * (plan.chunks if plan.by == "labels" else 1)
    wide = 4 if demand.low and (visits > 1 or demand.sharded) else 0
    of_input = demand.rows * demand.features * (size + wide) + (rows * demand.features * size if wide else 0)
    of_weight = 0
    if not demand.scratch:
        accumulated = plan.by == "rows" and plan.chunks > 1 and demand.weight_itemsize < 4
        of_weight = demand.labels * demand.features * (demand.weight_itemsize + (4 if accumulated else 0))
    of_bias = demand.labels * (max(4, size) + demand.weight_itemsize) if demand.bias else 0
    return chunk + statistics + block + demand.strip + of_input + of_weight + of_bias


def _traffic(plan: LinearPlan, demand: Demand) -> int:
    by_rows = plan.by == "rows"
    weights = demand.labels * demand.features * demand.weight_itemsize
    inputs = demand.rows * demand.features * demand.itemsize
    logits = demand.rows * demand.labels * demand.itemsize
    of_weights, of_inputs = (plan.chunks, 1) if by_rows else (1, plan.chunks)
    # Written by the product, read by the loss.
    sweep = of_weights * weights + of_inputs * inputs + 2 * logits
    if not demand.training:
        return sweep
    sweeps = plan.matrix_products - 2  # times that logits are formed
    # The loss writes their gradient, two products read it; sums are read and written once for each chunk.
    wide = max(4, demand.weight_itemsize) if demand.low else demand.weight_itemsize
    if by_rows and plan.chunks > 1:
        of_weight = 2 * plan.chunks * demand.labels * demand.features * wide
    else:
        of_weight = (2 if demand.scratch else 1) * weights
    of_input = inputs if by_rows or plan.chunks == 1 else 2 * plan.chunks * demand.rows * demand.features * wide
    return sweeps * sweep + 3 * logits + of_weights * weights + of_inputs * inputs + of_weight + of_input
