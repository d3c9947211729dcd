"""Pairs of row and label as sorted numbers ``row * L + label``: sets that are compared without a dense tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import as_int

__all__ = ["Pairs", "check_counts", "check_sample_weight", "contains", "mean_of_rows", "pairs_of"]


class Pairs(NamedTuple):
    """The positive and the unknown pairs as sorted int64 numbers, and the shape of the targets."""

    positive: Tensor
    unknown: Tensor
    rows: int
    labels: int


def pairs_of(name: str, targets: Any, ignore_index: int | None = None) -> Pairs:
    """Convert targets of any form: values above 1/2 are positive, negative ones in ``CSRTargets`` are unknown.

    Raises:
        TypeError: targets have a wrong type.
        ValueError: targets have no dimension, or a dense target is negative and not ``ignore_index``.
    """
    checked = _counts.check_alone(targets, name)
    if isinstance(checked, Tensor):
        return _pairs_of_dense(name, checked, ignore_index)
    row, label, value = _counts.entries(checked, ignore_index)
    place = row * checked.num_labels + label
    if value is None:
        return Pairs(place, place[:0], len(checked), checked.num_labels)
    return Pairs(place[value > 0.5], place[value < 0], len(checked), checked.num_labels)


def _pairs_of_dense(name: str, dense: Tensor, ignore_index: int | None) -> Pairs:
    """Convert dense targets chunk by chunk, because an entry of ``nonzero`` takes many times a mask element."""
    rows, labels = dense.shape
    positive, unknown = [torch.zeros(0, dtype=torch.int64, device=dense.device)], []
    for chosen in _counts.rows_at_once(rows, labels):
        part = dense[chosen]
        excluded = _counts.unknown_in(part, ignore_index, name)
        if excluded is not None:
            unknown.append(_places(excluded, chosen.start))
        positive.append(_places(part > 0.5, chosen.start))
    return Pairs(torch.cat(positive), torch.cat([positive[0], *unknown]), rows, labels)


def _places(mask: Tensor, first: int) -> Tensor:
    row, label = mask.nonzero(as_tuple=True)
    return (row + first) * mask.shape[1] + label


def contains(pairs: Tensor, queries: Tensor) -> Tensor:
    """Return which of ``queries`` are among the sorted ``pairs``, as a bool tensor of the queries' shape."""
    if not len(pairs):
        return torch.zeros_like(queries, dtype=torch.bool)
    place = torch.searchsorted(pairs, queries).clamp(max=len(pairs) - 1)
    return pairs[place] == queries


def check_counts(k: Any, width: int) -> list[int]:
    """Check the k of a metric at k against the number of predictions, and return them as a list."""
    listed = [as_int(n) for n in (k if isinstance(k, Sequence) and not isinstance(k, str) else [k])]
    if any(isinstance(n, bool) or not isinstance(n, int) for n in listed):
        raise TypeError(f"k: expected an int or a sequence of ints, got {check.received(k)}")
    if not listed or min(listed) < 1 or max(listed) > width:
        raise ValueError(f"k: expected 1 to {width}, the number of predicted labels of a row, got {k}")
    return listed


def check_sample_weight(weight: Any, rows: int, device: torch.device) -> Tensor | None:
    """Check the rows' weights and return them as float64 ``[rows]``, or None; leading dimensions are flattened."""
    if weight is None:
        return None
    if isinstance(weight, Tensor):
        weight = weight.reshape(-1)
    like = torch.empty(0, dtype=torch.float64, device=device)
    return check.check_tensor("sample_weight", weight, (rows,), like, low=0, open_low=False)


def mean_of_rows(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over the first dimension in float64; NaN if there are no rows or no weight."""
    values = values.double()
    return values.mean(0) if weight is None else weight @ values / weight.sum()
