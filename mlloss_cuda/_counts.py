"""Dense and sparse targets, read chunk by chunk, for statistics that are not differentiated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import _ops
from . import _validation as check
from ._reference import equal_to
from .targets import CSRTargets

__all__ = ["CHUNK", "check_alone", "count_labels", "entries", "rows_at_once", "unknown_in"]

# The elements of a chunk; memory beside the inputs is a few chunks.
CHUNK = 1 << 22


def check_alone(targets: Any, name: str = "targets") -> Tensor | CSRTargets:
    """Check targets that come without logits, and flatten dense ones to ``[rows, L]``."""
    if isinstance(targets, Tensor) and targets.layout == torch.sparse_csr:
        targets = CSRTargets.from_sparse(targets)
    if isinstance(targets, CSRTargets):
        return targets
    check.check_dense(name, targets)
    if targets.dim() == 0:
        raise ValueError(f"{name}: expected shape [..., L], got a 0-d tensor")
    return targets.detach().reshape(math.prod(targets.shape[:-1]), targets.shape[-1])


def entries(targets: CSRTargets, ignore_index: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return row, label and value (None: all 1) of every entry; a value below 0 is unknown.

    Raises:
        ValueError: a value is NaN, and ``ignore_index`` is not.
    """
    used = int(targets.crow_indices[-1])
    row = torch.arange(len(targets), device=targets.device).repeat_interleave(targets.crow_indices.diff().long())
    value = None if targets.values is None else targets.values[:used]
    if value is not None and bool(value.isnan().any()):
        if ignore_index != _ops.IGNORE_NAN:
            raise ValueError("targets: expected values that are not NaN, got NaN that are not ignore_index")
        value = value.masked_fill(value.isnan(), -1.0)
    return row, targets.col_indices[:used].long(), value


def unknown_in(part: Tensor, ignore_index: int | None, name: str = "targets") -> Tensor | None:
    """Return which of a chunk of dense targets are unknown, or None without an ``ignore_index``.

    Raises:
        ValueError: a target is negative or NaN, and not ``ignore_index``.
    """
    unknown = None if ignore_index is None else equal_to(part, ignore_index)
    wrong = ~(part >= 0)
    if unknown is not None:
        wrong &= ~unknown
    if bool(wrong.any()):
        raise ValueError(f"{name}: expected 0, 1 or probabilities, got negative or NaN that are not ignore_index")
    return unknown


def rows_at_once(rows: int, labels: int) -> Iterator[slice]:
    """Iterate over slices of rows with about ``CHUNK`` elements each."""
    step = max(1, CHUNK // max(labels, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def count_labels(targets: Tensor | CSRTargets, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Count each label's positives (probabilities add up) and the rows where it is known, both float64 ``[L]``."""
    if isinstance(targets, CSRTargets):
        _, label, value = entries(targets, ignore_index)
        known = torch.full((targets.num_labels,), float(len(targets)), dtype=torch.float64, device=targets.device)
        if value is None:
            return torch.bincount(label, minlength=targets.num_labels).double(), known
        positive = torch.bincount(label, value.double().clamp(0, 1), minlength=targets.num_labels)
        return positive, known - torch.bincount(label[value < 0], minlength=targets.num_labels)
    rows, labels = targets.shape
    positive = torch.zeros(labels, dtype=torch.float64, device=targets.device)
    known = torch.full_like(positive, float(rows))
    for part in rows_at_once(rows, labels):
        y = targets[part]
        unknown = unknown_in(y, ignore_index)
        if unknown is not None:
            y = torch.where(unknown, torch.zeros_like(y), y)
            known -= unknown.sum(0)
        positive += (y if y.dtype == torch.bool else y.clamp(max=1)).sum(0, dtype=torch.float64)
    return positive, known
