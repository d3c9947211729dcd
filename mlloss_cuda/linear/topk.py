"""The k highest labels of each row, chunk by chunk."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..sharding.shards import LabelShards
from ..targets import CSRTargets
from .plan import ALIGNMENT, default_budget
from .sums import linear_into

__all__ = ["TopK", "chunked_topk", "sharded_topk"]


class TopK(NamedTuple):
    """Logits and labels ``[..., k]`` as from ``torch.topk``, the highest first."""

    values: Tensor
    indices: Tensor


def sharded_topk(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    exclude: CSRTargets | None,
    budget: int | None,
    shards: LabelShards,
) -> TopK:
    """Find the k highest labels over all ranks by gathering the k highest of each rank."""
    own = weight.shape[0]
    values = inputs.new_full((inputs.shape[0], k), -torch.inf)
    labels = torch.full(values.shape, -1, dtype=torch.int64, device=values.device)
    first = 0 if exclude is None or exclude.num_labels != shards.labels else shards.own.start
    if own:
        found = chunked_topk(inputs, weight, bias, min(k, own), exclude, budget, first)
        values[:, : min(k, own)] = found.values
        labels[:, : min(k, own)] = torch.where(found.indices < 0, -1, found.indices + shards.own.start)
    values, labels = (shards.gather(each).transpose(0, 1).flatten(1) for each in (values, labels))
    return _sorted(values, labels, k)


def chunked_topk(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    exclude: CSRTargets | None,
    budget: int | None,
    first: int = 0,
) -> TopK:
    """Find the k highest logits of ``inputs @ weight.T + bias``, for 2-D inputs that have been checked.

    ``first`` is the number that ``exclude`` gives to the first label of ``weight``.
    """
    labels = weight.shape[0]
    size = min(_chunk(inputs, weight, budget), labels)
    # One extra column takes the writes of entries that lie outside the chunk.
    buffer = inputs.new_empty(inputs.shape[0], -(-(size + 1) // ALIGNMENT) * ALIGNMENT)
    entries = None if exclude is None or inputs.shape[0] == 0 else _entries(exclude, inputs.shape[0])
    best: TopK | None = None
    for start in range(0, labels, size):
        stop = min(start + size, labels)
        logits = buffer[:, : stop - start]
        linear_into(logits, inputs, weight[start:stop], None if bias is None else bias[start:stop])
        if entries is not None:
            _exclude(buffer, start, stop, entries[0], entries[1] - first)
        values, places = _highest(logits, min(k, stop - start))
        found = TopK(values, places + start)
        best = found if best is None else _merged(best, found, k)
    assert best is not None
    best = _sorted(*best, k)
    # Excluded labels have logit -inf; other labels with that logit are dropped too.
    return TopK(best.values, torch.where(best.values == -torch.inf, -1, best.indices))


def _chunk(inputs: Tensor, weight: Tensor, budget: int | None) -> int:
    budget = budget or default_budget(weight.numel() * weight.element_size())
    # A converted copy of the chunk's weights counts too.
    copied = 0 if inputs.dtype == weight.dtype else weight.shape[1] * inputs.element_size()
    label_bytes = max(1, inputs.shape[0] * inputs.element_size() + copied)
    return max(ALIGNMENT, budget // label_bytes // ALIGNMENT * ALIGNMENT)


def _entries(exclude: CSRTargets, rows: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each entry; the column is -1 past the last entry."""
    places = torch.arange(exclude.col_indices.shape[0], device=exclude.device)
    crow = exclude.crow_indices.long()
    row = torch.searchsorted(crow, places, right=True) - 1
    column = torch.where(places < crow[-1], exclude.col_indices.long(), -1)
    return row.clamp(0, rows - 1), column


def _exclude(buffer: Tensor, start: int, stop: int, row: Tensor, column: Tensor) -> None:
    inside = (column >= start) & (column < stop)
    place = torch.where(inside, column - start, stop - start)
    buffer.index_put_((row, place), buffer.new_full((), -torch.inf))


def _highest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest logits of each row, unordered, and their columns; of equal logits the first columns win.

    ``torch.topk`` picks arbitrary columns among equal logits. Here it only supplies the lowest value that is still
    among the k highest. The columns with exactly this value are then found separately, and as many of them as are
    needed follow the columns with higher values.
    """
    values, places = logits.topk(k)
    last = values[:, -1:]
    columns = logits.shape[1]
    backwards = torch.arange(columns, 0, -1, dtype=torch.int32, device=logits.device)
    equal = torch.where(logits == last, backwards, 0).topk(k).values  # the first column has the highest number
    above = values != last  # a NaN is above everything
    count = above.sum(1, keepdim=True)
    order = torch.arange(k, device=logits.device)
    # Values are sorted: those above come first, and the i-th after them is the i-th of the equal ones.
    index = (order - count).clamp(min=0)
    return values, torch.where(order < count, places, columns - equal.gather(1, index).long())


def _sorted(values: Tensor, labels: Tensor, k: int) -> TopK:
    """Return the k highest, sorted by falling logit and, among equal logits, by rising label."""
    labels, order = labels.sort(1)
    values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return TopK(values[:, :k], labels.gather(1, again)[:, :k])


def _merged(one: TopK, two: TopK, k: int) -> TopK:
    return _sorted(torch.cat((one.values, two.values), 1), torch.cat((one.indices, two.indices), 1), k)
