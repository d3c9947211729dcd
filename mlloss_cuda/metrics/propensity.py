"""Metrics of the k best labels, whose rare ones count more: by the propensities of Jain et al."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .. import _validation as check
from ..targets import CSRTargets
from ._found import Found

__all__ = [
    "PROPENSITY",
    "propensity_scored_ndcg_at_k",
    "propensity_scored_precision_at_k",
    "propensity_scored_recall_at_k",
]

PROPENSITY: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "default": MappingProxyType({"a": 0.55, "b": 1.5}),
        "amazon": MappingProxyType({"a": 0.6, "b": 2.6}),
        "wikipedia": MappingProxyType({"a": 0.5, "b": 0.4}),
    }
)
"""The constants of ``label_weights(train, "propensity", normalize=False, **PROPENSITY["amazon"])``.

Jain et al. (2016) take those named ``"amazon"`` and ``"wikipedia"`` for these sites' sets, and ``"default"`` for all
others. In the Extreme Classification Repository's results AmazonCat-13K has 0.55 and 1.5, which are ``"default"`` too.
"""


def propensity_scored_precision_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    inverse_propensity: Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Precision where a label counts by one over the probability that it is recorded, over the best attainable.

    Right answers among the first k add up their weight over all rows; so do the k positives of largest weight of each
    row, and the first sum is divided by the second.

    Args:
        indices, targets, k, exclude, sample_weight: as of :func:`precision_at_k`.
        inverse_propensity: floating ``[L]``, finite and >= 0, of the training data:
            ``label_weights(train, "propensity", normalize=False)``, with :data:`PROPENSITY`'s ``a`` and ``b`` for
            Amazon's and Wikipedia's sets.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN where nothing is positive.

    Raises:
        TypeError: as :func:`precision_at_k`.
        ValueError: likewise, or ``inverse_propensity`` has another shape or values.

    Source:
        Jain, Prabhu, Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing
        Label Applications", 2016; normalised as in the Extreme Classification Repository.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> weights = torch.tensor([1.0, 2.0, 4.0, 1.0])
        >>> propensity_scored_precision_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, weights, (1, 3))
        tensor([0.6667, 1.0000])
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    return _ratio(found, inverse_propensity, torch.ones_like(found.ranks))


def propensity_scored_ndcg_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    inverse_propensity: Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""The same with the i-th label's weight over :math:`\log_2(1 + i)`, over the best attainable.

    Numerator and denominator are sums over rows, whose discounts are the same for all, as the paper has it. pyxclib
    divides both by :math:`\sum_{i \le \min(k, n)} 1 / \log_2(1 + i)` of the row's n positives first, which gives rows
    of few more weight: its PSnDCG is another number, by a point or so, from k = 2 on.

    Args:
        indices, targets, inverse_propensity, k, exclude, sample_weight: as of
            :func:`propensity_scored_precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN where nothing is positive.

    Raises:
        TypeError: as :func:`propensity_scored_precision_at_k`.
        ValueError: likewise.

    Source:
        Jain et al., 2016: PSnDCG, whose constant goes out by the normalisation.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> weights = torch.tensor([1.0, 2.0, 4.0, 1.0])
        >>> propensity_scored_ndcg_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, weights, 3)
        tensor(0.8294)
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    return _ratio(found, inverse_propensity, found.discount)


def propensity_scored_recall_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    inverse_propensity: Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Recall where a label counts by one over the probability that it is recorded, over the best attainable.

    As :func:`propensity_scored_precision_at_k`, with every row's weights divided by the number of its positives.

    Args:
        indices, targets, inverse_propensity, k, exclude, sample_weight: as of
            :func:`propensity_scored_precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN where nothing is positive.

    Raises:
        TypeError: as :func:`propensity_scored_precision_at_k`.
        ValueError: likewise.

    Source:
        kunaldahiya/pyxclib, ``xclib/evaluation/xc_metrics.py``, ``psrecall``.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> weights = torch.tensor([1.0, 2.0, 4.0, 1.0])
        >>> propensity_scored_recall_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, weights, (1, 3))
        tensor([0.5000, 1.0000])
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    return _ratio(found, inverse_propensity, torch.ones_like(found.ranks), 1 / found.positives.clamp(min=1).double())


def _ratio(found: Found, weights: Any, discount: Tensor, of_rows: Tensor | None = None) -> Tensor:
    """The gain at each k over the largest possible one, each summed over rows."""
    if isinstance(weights, Tensor) and not weights.is_floating_point():
        raise TypeError(f"inverse_propensity: expected a floating tensor, got {weights.dtype}")
    like = torch.empty(0, dtype=torch.float64, device=found.indices.device)
    weights = check.check_side("inverse_propensity", weights, (found.pairs.labels,), like, low=0, open_low=False)
    gain = torch.where(found.right, weights[found.indices.clamp(min=0)], 0.0) * discount
    best = _largest(found, weights) * discount
    for factor in (of_rows, found.weight):
        if factor is not None:
            gain, best = gain * factor[:, None], best * factor[:, None]
    return found.at(gain.sum(0).cumsum(0) / best.sum(0).cumsum(0))


def _largest(found: Found, weights: Tensor) -> Tensor:
    """The largest weights of each row's positives, falling, ``[rows, K]``; 0 where there are no more."""
    labels, width = max(found.pairs.labels, 1), found.right.shape[1]
    row, label = found.pairs.positive.div(labels, rounding_mode="floor"), found.pairs.positive % labels
    weight = weights[label]
    order = weight.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, weight = row[order], weight[order]
    start = found.positives.cumsum(0) - found.positives
    rank = torch.arange(len(row), device=row.device) - start[row]
    table = weights.new_zeros(found.pairs.rows, width)
    kept = rank < width
    table[row[kept], rank[kept]] = weight[kept]
    return table
