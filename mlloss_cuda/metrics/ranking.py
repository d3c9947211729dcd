"""Metrics of the k labels that a row is predicted to have, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _validation as check
from ..targets import CSRTargets
from ._pairs import Pairs, check_counts, contains, pairs_of

__all__ = [
    "PROPENSITY",
    "ndcg_at_k",
    "precision_at_k",
    "propensity_scored_ndcg_at_k",
    "propensity_scored_precision_at_k",
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


def precision_at_k(indices: Tensor, targets: CSRTargets | Tensor, k: int | Sequence[int]) -> Tensor:
    """Of the first k labels, how many are right; the mean over rows, those without positives included.

    Args:
        indices: int32 or int64 ``[rows, K]``, the predicted labels, best first, none twice in a row, as of
            ``LinearLoss.topk``. -1 stands for none.
        targets: of ``rows`` rows: ``CSRTargets``, ``torch.sparse_csr``, or dense ``[rows, L]``. Values above 1/2 are
            positive. What is unknown is not.
        k: in ``[1, K]``, or several.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN of no rows.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices do not fit, or an index or k is out of range (indices on a GPU are not looked at).

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> precision_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, (1, 3))
        tensor([0.5000, 0.5000])
    """
    found = _Found.of(indices, targets)
    counts = check_counts(k, indices.shape[1])
    right = found.right.double().cumsum(1).mean(0)
    return _at(right / _ranks(found.right), counts, k)


def ndcg_at_k(indices: Tensor, targets: CSRTargets | Tensor, k: int | Sequence[int]) -> Tensor:
    r"""Normalised discounted cumulative gain, the mean over rows.

    .. math:: \Big(\sum_{i \le k} \frac{y_i}{\log_2(1 + i)}\Big) \Big/ \sum_{i \le \min(k, n)} \frac1{\log_2(1 + i)}

    for a row of n positives, of which the i-th predicted label is one (:math:`y_i = 1`) or not. 0 for rows without.

    Args:
        indices, targets, k: as of :func:`precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN of no rows.

    Raises:
        TypeError: as :func:`precision_at_k`.
        ValueError: likewise.

    Source:
        As http://manikvarma.org/downloads/XC/XMLRepository.html has it.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> ndcg_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, 3)
        tensor(0.7099)
    """
    found = _Found.of(indices, targets)
    counts = check_counts(k, indices.shape[1])
    discount = 1 / torch.log2(1 + _ranks(found.right))
    most = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    gain = (found.right * discount).cumsum(1)
    ranks = torch.arange(1, indices.shape[1] + 1, device=indices.device)
    best = most[torch.minimum(found.positives[:, None], ranks)]
    return _at((gain / best.clamp(min=1e-300)).mean(0), counts, k)


def propensity_scored_precision_at_k(
    indices: Tensor, targets: CSRTargets | Tensor, inverse_propensity: Tensor, k: int | Sequence[int]
) -> Tensor:
    """Precision where a label counts by one over the probability that it is recorded, over the best attainable.

    Right answers among the first k add up their weight over all rows; so do the k positives of largest weight of each
    row, and the first sum is divided by the second.

    Args:
        indices, targets, k: as of :func:`precision_at_k`.
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
    return _propensity_scored(indices, targets, inverse_propensity, k, discounted=False)


def propensity_scored_ndcg_at_k(
    indices: Tensor, targets: CSRTargets | Tensor, inverse_propensity: Tensor, k: int | Sequence[int]
) -> Tensor:
    r"""The same with the i-th label's weight over :math:`\log_2(1 + i)`, over the best attainable.

    Numerator and denominator are sums over rows, whose discounts are the same for all, as the paper has it. pyxclib
    divides both by :math:`\sum_{i \le \min(k, n)} 1 / \log_2(1 + i)` of the row's n positives first, which gives rows
    of few more weight: its PSnDCG is another number, by a point or so, from k = 2 on.

    Args:
        indices, targets, inverse_propensity, k: as of :func:`propensity_scored_precision_at_k`.

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
    return _propensity_scored(indices, targets, inverse_propensity, k, discounted=True)


class _Found(NamedTuple):
    """Which predicted labels are right, how many positives each row has, and all of these."""

    right: Tensor
    positives: Tensor
    pairs: Pairs

    @classmethod
    def of(cls, indices: Any, targets: Any) -> _Found:
        if not isinstance(indices, Tensor) or indices.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"indices: expected an int32 or int64 tensor [rows, K], got {check.came(indices)}")
        if indices.dim() != 2:
            raise ValueError(f"indices: expected shape [rows, K], got {tuple(indices.shape)}")
        pairs = pairs_of("targets", targets)
        if indices.device != pairs.positive.device:
            raise ValueError(f"indices: expected on {pairs.positive.device}, as targets, got {indices.device}")
        if indices.shape[0] != pairs.rows:
            raise ValueError(f"indices: expected {pairs.rows} rows, as targets, got {indices.shape[0]}")
        _check_labels(indices, pairs.labels)
        first = torch.arange(pairs.rows, device=indices.device)[:, None] * pairs.labels
        right = contains(pairs.positive, first + indices.clamp(min=0)) & (indices >= 0)
        row = pairs.positive.div(max(pairs.labels, 1), rounding_mode="floor")
        return cls(right, torch.bincount(row, minlength=pairs.rows), pairs)


def _check_labels(indices: Tensor, labels: int) -> None:
    if not (check.readable(indices) and indices.numel()):
        return
    low, high = int(indices.min()), int(indices.max())
    if low < -1 or high >= labels:
        raise ValueError(f"indices: expected labels in [0, {labels}), or -1 for none, got {low} to {high}")
    ordered = indices.sort(1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise ValueError("indices: expected each label once in a row, got some twice")


def _ranks(right: Tensor) -> Tensor:
    return torch.arange(1, right.shape[1] + 1, dtype=torch.float64, device=right.device)


def _at(values: Tensor, counts: list[int], k: int | Sequence[int]) -> Tensor:
    chosen = values[torch.tensor(counts, device=values.device) - 1].float()
    return chosen[0] if isinstance(k, int) else chosen


def _propensity_scored(indices: Tensor, targets: Any, weights: Any, k: Any, discounted: bool) -> Tensor:
    found = _Found.of(indices, targets)
    counts = check_counts(k, indices.shape[1])
    if isinstance(weights, Tensor) and not weights.is_floating_point():
        raise TypeError(f"inverse_propensity: expected a floating tensor, got {weights.dtype}")
    like = torch.empty(0, dtype=torch.float64, device=indices.device)
    weights = check.check_side("inverse_propensity", weights, (found.pairs.labels,), like, low=0, open_low=False)
    discount = 1 / torch.log2(1 + _ranks(found.right)) if discounted else torch.ones_like(_ranks(found.right))
    gain = torch.where(found.right, weights[indices.clamp(min=0)], 0.0) * discount
    best = _largest(found, weights, indices.shape[1]) * discount
    return _at(gain.sum(0).cumsum(0) / best.sum(0).cumsum(0), counts, k)


def _largest(found: _Found, weights: Tensor, width: int) -> Tensor:
    """The largest weights of each row's positives, falling, ``[rows, width]``; 0 where there are no more."""
    labels = max(found.pairs.labels, 1)
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
