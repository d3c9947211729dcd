"""The plan of a step of the head: its chunks, memory and traffic, computed from plain numbers before anything runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

__all__ = ["ALIGNMENT", "Demand", "LinearPlan", "Part", "default_budget", "make_plan"]

ALIGNMENT: Final = 64  # a chunk's leading dimension is a multiple of this; odd leading dimensions make products slow
_LEAST_BUDGET: Final = 64 << 20
# A faster plan may need this multiple of the least memory. A plan by rows with a float32 sum of bfloat16 gradients
# needs more.
_MEMORY_FOR_SPEED: Final = 1.25
_ABOUT_AS_FAST: Final = 1.05  # a plan within this factor of the fastest may be taken for its lower memory
# The number of operations that take about as long as moving one byte, for float32 and for narrower products. It
# weighs the products that chunks by rows save against the bytes that they move.
_OPERATIONS_PER_BYTE: Final = {"cpu": (10.0, 25.0), "cuda": (15.0, 150.0)}

# Tests set this to "rows" or "labels" to force that direction for losses that allow it.
forced_direction: str | None = None


class Part(NamedTuple):
    """A chunk of the logits."""

    rows: slice
    labels: slice


@dataclass(frozen=True)
class Demand:
    """The facts about a call that its plan depends on."""

    rows: int
    labels: int
    features: int
    itemsize: int  # bytes of an element of input and logits
    weight_itemsize: int
    bias: bool
    device_type: str
    passes: int  # passes over a chunk of logits
    within_rows: bool  # every group of the loss lies within one row
    within_labels: bool  # every group lies within one label
    sharded: bool  # labels are split over ranks, so a chunk with all of this rank's labels may hold parts of groups
    parts: bool  # the backend evaluates parts of the labels, and writes gradients with padding between rows
    second_pass_sums: bool  # the loss needs one more sweep over the logits
    statistics: int  # statistics of each group
    training: bool = True
    in_backward: bool = False  # the gradient is formed in the backward
    scratch: int = 0  # bytes for each weight of a block that a fused update steps; 0 without such an update
    strip: int = 0  # further bytes of a fused update
    memory_budget: int | None = None
    chunk_size: int | None = None

    @property
    def budget(self) -> int:
        """Bytes for logits; the same number again is for weights that are converted or stepped."""
        return self.memory_budget or default_budget(self.labels * self.features * self.weight_itemsize)

    @property
    def buffers(self) -> int:
        """The buffers of a chunk's size in use at a time: logits, gradient so far, and gradient of one pass."""
        return min(self.passes, 3)

    @property
    def wide_sums(self) -> bool:
        """Whether products are narrower than float32, and summed in float32."""
        return self.itemsize < 4


@dataclass(frozen=True)
class LinearPlan:
    """The plan of one forward and backward, as returned by ``LinearLoss.plan(B)``.

    ``peak_bytes`` is the highest number of bytes allocated at a time, gradients included, in addition to the
    caller's tensors (input, weight, bias, targets). ``traffic_bytes`` is the number of bytes that products and losses
    read and write, with no cache hits.
    """

    rows: int
    labels: int
    features: int
    by: str  # "rows" or "labels"
    chunk_size: int  # rows or labels in a chunk
    chunks: int
    block_size: int  # labels whose weights are converted or stepped at a time
    matrix_products: int  # matrix products of a forward and backward
    keeps_logits: bool  # logits are kept from the forward to the backward
    within: bool  # every group of the loss lies within a chunk
    padded: bool = True  # a chunk's leading dimension is a multiple of 64
    sharded: bool = False  # labels are split over several ranks
    peak_bytes: int = 0
    traffic_bytes: int = 0

    def parts(self) -> Iterator[Part]:
        """Iterate over the chunks, in order."""
        whole = self.rows if self.by == "rows" else self.labels
        for start in range(0, max(whole, 1), self.chunk_size):  # a rank without labels still has one, empty, chunk
            own = slice(start, min(start + self.chunk_size, whole))
            yield Part(own, slice(0, self.labels)) if self.by == "rows" else Part(slice(0, self.rows), own)

    def blocks(self, labels: slice) -> Iterator[slice]:
        """Iterate over a chunk's labels in blocks that are converted or stepped at a time."""
        for start in range(labels.start, max(labels.stop, labels.start + 1), self.block_size):
            yield slice(start, min(start + self.block_size, labels.stop))

    def leading(self, columns: int) -> int:
        """Return the leading dimension of a chunk with this many columns."""
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
    """Return the default bytes for logits: a sixteenth of the weights' bytes, at least 64 MiB."""
    return max(_LEAST_BUDGET, weight_bytes // 16)


def aligned(size: int) -> int:
    """Round up to a multiple of 64."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_plan(demand: Demand) -> LinearPlan:
    """Choose among the plans whose memory is near the least one: of those near the fastest, the smallest.

    A ``chunk_size`` of the caller then replaces the plan's own.
    """
    return _make_plan(demand, forced_direction)


@functools.lru_cache(maxsize=256)
def _make_plan(demand: Demand, direction: str | None) -> LinearPlan:
    plans = [_with_totals(plan, demand) for plan in _candidates(demand, direction)]
    least = min(plan.peak_bytes for plan in plans)
    plans = [plan for plan in plans if plan.peak_bytes <= _MEMORY_FOR_SPEED * least]
    cheap = _ABOUT_AS_FAST * min(_cost(plan, demand) for plan in plans)
    best = min((plan for plan in plans if _cost(plan, demand) <= cheap), key=lambda plan: plan.peak_bytes)
    if demand.chunk_size is None or not (demand.parts or best.by == "rows"):
        return best
    whole = demand.rows if best.by == "rows" else demand.labels
    return _with_totals(_plan(demand, best.by, min(demand.chunk_size, whole)), demand)


def _cost(plan: LinearPlan, demand: Demand) -> float:
    """Return the traffic in bytes, plus the operations converted to bytes of the same duration."""
    rate = _OPERATIONS_PER_BYTE.get(demand.device_type, _OPERATIONS_PER_BYTE["cuda"])[demand.wide_sums]
    product = 2.0 * demand.rows * demand.labels * demand.features
    return plan.traffic_bytes + plan.matrix_products * product / rate


def _candidates(demand: Demand, direction: str | None) -> Iterator[LinearPlan]:
    element_bytes = demand.itemsize * demand.buffers
    row_bytes = aligned(demand.labels) * element_bytes
    # Chunks by rows share their weights, so these cannot be stepped after each chunk.
    allowed = {"labels": demand.parts, "rows": demand.within_rows and not demand.scratch}
    if direction is not None:
        allowed = {direction: allowed[direction]}
    elif demand.rows * row_bytes <= demand.budget:
        allowed = {}
    if allowed.get("labels"):
        column_bytes = max(1, demand.rows * element_bytes)
        most = max(ALIGNMENT, demand.budget // column_bytes // ALIGNMENT * ALIGNMENT)
        yield _plan(demand, "labels", min(aligned(_even(demand.labels, most)), demand.labels))
    if allowed.get("rows"):
        yield _plan(demand, "rows", _even(demand.rows, max(1, demand.budget // max(1, row_bytes))))
    if not any(allowed.values()) or (demand.memory_budget is None and direction is None):
        yield _plan(demand, "labels", demand.labels)  # one chunk: a default budget may be exceeded for speed


def _even(whole: int, most: int) -> int:
    """Return the size of nearly equal chunks of at most ``most``."""
    chunks = -(-whole // most)
    return -(-whole // max(chunks, 1))


def _plan(demand: Demand, by: str, size: int) -> LinearPlan:
    whole = max(demand.rows if by == "rows" else demand.labels, 1)
    size = max(size, 1)
    chunks = -(-whole // size)
    within = _is_within(demand, by, chunks)
    kept = demand.training and chunks == 1 and (demand.in_backward or not within)
    products = 1
    if not within and demand.second_pass_sums and chunks > 1:
        products += 1
    if demand.training:
        products += 2 if kept or (within and not demand.in_backward) else 3
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


def _bytes_per_weight(demand: Demand, chunks: int, by: str) -> int:
    """Return the bytes for each weight of a block: its converted copy, and a product before it is added or stepped."""
    converted = demand.itemsize if demand.weight_itemsize != demand.itemsize else 0
    if not demand.training:
        return converted
    if demand.scratch:
        return converted + demand.scratch
    added = by == "rows" and chunks > 1 and demand.wide_sums
    return converted + (demand.itemsize if added or converted else 0)


def _block(demand: Demand, labels: int, chunks: int, by: str) -> int:
    label_bytes = _bytes_per_weight(demand, chunks, by) * demand.features
    labels = max(labels, 1)
    if label_bytes == 0:
        return labels
    return min(labels, max(ALIGNMENT, demand.budget // label_bytes // ALIGNMENT * ALIGNMENT))


def _with_totals(plan: LinearPlan, demand: Demand) -> LinearPlan:
    return replace(plan, peak_bytes=_peak(plan, demand), traffic_bytes=_traffic(plan, demand))


def _peak(plan: LinearPlan, demand: Demand) -> int:
    rows, labels = (plan.chunk_size, demand.labels) if plan.by == "rows" else (demand.rows, plan.chunk_size)
    size = demand.itemsize
    chunk = rows * aligned(labels) * size + (demand.buffers - 1) * rows * labels * size
    statistics = 0 if plan.within else 8 * plan.chunks * demand.statistics * demand.rows
    block = plan.block_size * _bytes_per_weight(demand, plan.chunks, plan.by) * demand.features
    if not demand.training:
        return chunk + statistics + block
    # The input's gradient, its float32 sum, and one product before it is added.
    visits = -(-labels // plan.block_size) * (plan.chunks if plan.by == "labels" else 1)
    wide = 4 if demand.wide_sums and (visits > 1 or demand.sharded) else 0
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
    # Logits are written by the product and read by the loss.
    sweep = of_weights * weights + of_inputs * inputs + 2 * logits
    if not demand.training:
        return sweep
    sweeps = plan.matrix_products - 2  # the number of times that logits are formed
    # The loss writes the logits' gradient, two products read it; sums are read and written once for each chunk.
    wide = max(4, demand.weight_itemsize) if demand.wide_sums else demand.weight_itemsize
    if by_rows and plan.chunks > 1:
        of_weight = 2 * plan.chunks * demand.labels * demand.features * wide
    else:
        of_weight = (2 if demand.scratch else 1) * weights
    of_input = inputs if by_rows or plan.chunks == 1 else 2 * plan.chunks * demand.rows * demand.features * wide
    return sweeps * sweep + 3 * logits + of_weights * weights + of_inputs * inputs + of_weight + of_input
