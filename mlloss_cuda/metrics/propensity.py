"""Metrics of the first k labels in which rare labels weigh more, by the propensities of Jain et al."""

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

Jain et al. (2016) use ``"amazon"`` and ``"wikipedia"`` for data sets of these sites, and ``"default"`` for all others.
The results of the Extreme Classification Repository use 0.55 and 1.5, ``"default"``, for AmazonCat-13K too.
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
    """Compute the precision with labels weighted by inverse propensity, divided by its best possible value.

    The propensity of a label is the probability that it is recorded. The numerator is the sum over all rows of the
    weights of the right labels among the first k, and the denominator that of the k positives of largest weight.

    Args:
        indices, targets, k, exclude, sample_weight: as in :func:`precision_at_k`.
        inverse_propensity: floating ``[L]``, finite and >= 0, computed from the training data by
            ``label_weights(train, "propensity", normalize=False)``, with :data:`PROPENSITY`'s ``a`` and ``b`` for
            data sets of Amazon and Wikipedia.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without positives.

    Raises:
        TypeError: as in :func:`precision_at_k`.
        ValueError: as in :func:`precision_at_k`, or ``inverse_propensity`` has a wrong shape or values.

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
    r"""Compute the discounted gain with labels weighted by inverse propensity, divided by its best possible value.

    The weight of the i-th label is divided by :math:`\log_2(1 + i)`. Numerator and denominator are sums over rows with
    the same discounts for all rows, as in the paper. pyxclib first divides both by
    :math:`\sum_{i \le \min(k, n)} 1 / \log_2(1 + i)` for the row's n positives, which gives more weight to rows with
    few positives: its PSnDCG differs by about one percentage point from k = 2 on.

    Args:
        indices, targets, inverse_propensity, k, exclude, sample_weight: as in
            :func:`propensity_scored_precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without positives.

    Raises:
        TypeError, ValueError: as in :func:`propensity_scored_precision_at_k`.

    Source:
        Jain et al., 2016: PSnDCG, whose constant factor cancels in the normalisation.

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
    """Compute the recall with labels weighted by inverse propensity, divided by its best possible value.

    It is :func:`propensity_scored_precision_at_k` with the weights of a row divided by its number of positives.

    Args:
        indices, targets, inverse_propensity, k, exclude, sample_weight: as in
            :func:`propensity_scored_precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without positives.

    Raises:
        TypeError, ValueError: as in :func:`propensity_scored_precision_at_k`.

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


def _ratio(found: Found, weights: Any, discount: Tensor, row_factor: Tensor | None = None) -> Tensor:
    """Return the gain at each k divided by the largest possible one, both summed over rows."""
    if isinstance(weights, Tensor) and not weights.is_floating_point():
        raise TypeError(f"inverse_propensity: expected a floating tensor, got {weights.dtype}")
    like = torch.empty(0, dtype=torch.float64, device=found.indices.device)
    weights = check.check_tensor("inverse_propensity", weights, (found.pairs.labels,), like, low=0, open_low=False)
    gain = torch.where(found.right, weights[found.indices.clamp(min=0)], 0.0) * discount
    best = _largest(found, weights) * discount
    for factor in (row_factor, found.weight):
        if factor is not None:
            gain, best = gain * factor[:, None], best * factor[:, None]
    return found.at(gain.sum(0).cumsum(0) / best.sum(0).cumsum(0))


def _largest(found: Found, weights: Tensor) -> Tensor:
    """Return the largest weights of each row's positives, ``[rows, K]``, in falling order and padded with 0."""
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
