"""Metrics of predicted sets of labels, counted from sparse pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _validation as check
from ..targets import CSRTargets
from ._pairs import Pairs, check_sample_weight, contains, mean_of_rows, pairs_of

__all__ = ["f1_score", "fbeta_score", "hamming_loss", "subset_accuracy"]

AVERAGES = ("samples", "macro", "micro", "weighted", "none")


def subset_accuracy(
    predicted: CSRTargets | Tensor,
    targets: CSRTargets | Tensor,
    *,
    ignore_index: float | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Compute the share of rows in which every label is predicted right.

    Args:
        predicted: ``CSRTargets``, ``torch.sparse_csr``, or dense ``[..., L]``, 0, 1 or probabilities. Values above 1/2
            are predicted.
        targets: targets of the same shape. Values above 1/2 are positive; negative values in ``CSRTargets`` are
            unknown, and predictions of unknown labels are ignored. Sparse arguments are not made dense.
        ignore_index: dense targets equal to it are unknown; with ``float("nan")``, NaN marks unknown labels
            in floating targets and CSR values. Default None.
        sample_weight: ``[...]``, >= 0, the rows' weights. Default None.

    Returns:
        float32, 0-d, in [0, 1]. NaN without rows.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: shapes or devices differ, a dense target is negative and not ``ignore_index``, or dense predictions
            are outside [0, 1], such as logits.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> subset_accuracy(CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4), targets)
        tensor(0.6667)
    """
    counted = _Counted(predicted, targets, ignore_index, sample_weight)
    return mean_of_rows(counted.wrong() == 0, counted.weight).float()


def hamming_loss(
    predicted: CSRTargets | Tensor,
    targets: CSRTargets | Tensor,
    *,
    ignore_index: float | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Compute the share of wrong decisions among all known labels of all rows.

    Args:
        predicted, targets, ignore_index, sample_weight: as in :func:`subset_accuracy`.

    Returns:
        float32, 0-d, in [0, 1]. NaN without known labels.

    Raises:
        TypeError, ValueError: as in :func:`subset_accuracy`.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> hamming_loss(CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4), targets)
        tensor(0.0833)
    """
    counted = _Counted(predicted, targets, ignore_index, sample_weight)
    known = counted.labels - counted.per_row(counted.unknown)
    wrong, decisions = mean_of_rows(torch.stack([counted.wrong(), known], 1), counted.weight)
    return (wrong / decisions).float()


def f1_score(
    predicted: CSRTargets | Tensor,
    targets: CSRTargets | Tensor,
    average: str | None = "macro",
    *,
    zero_division: float = 0.0,
    ignore_index: float | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Compute F1, :math:`2 |P \cap Y| / (|P| + |Y|)`, for predicted labels P and positives Y.

    It is :func:`fbeta_score` with a ``beta`` of 1.

    Args:
        predicted, targets, average, zero_division, ignore_index, sample_weight: as in :func:`fbeta_score`.

    Returns:
        The result of :func:`fbeta_score`.

    Raises:
        TypeError, ValueError: as in :func:`fbeta_score`.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> predicted = CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4)
        >>> [f"{f1_score(predicted, targets, average).item():.3f}" for average in ("samples", "macro", "micro")]
        ['0.556', '0.750', '0.857']
        >>> f1_score(predicted, targets, average=None)
        tensor([1., 1., 1., 0.])
    """
    return fbeta_score(
        predicted,
        targets,
        1.0,
        average,
        zero_division=zero_division,
        ignore_index=ignore_index,
        sample_weight=sample_weight,
    )


def fbeta_score(
    predicted: CSRTargets | Tensor,
    targets: CSRTargets | Tensor,
    beta: float,
    average: str | None = "macro",
    *,
    zero_division: float = 0.0,
    ignore_index: float | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Compute F-beta, :math:`(1 + \beta^2) |P \cap Y| / (|P| + \beta^2 |Y|)`, for predicted labels P and positives Y.

    Args:
        predicted, targets, ignore_index: as in :func:`subset_accuracy`.
        beta: >= 0, the importance of recall relative to precision. 1 is F1.
        average: named as in scikit-learn. ``"macro"`` (default): the score of each label over all rows, then the mean
            over L labels. ``"weighted"``: that mean weighted by the labels' numbers of positives. ``"none"`` or None:
            the score of each label. ``"samples"``: the score of each row, then the mean over rows. ``"micro"``: one
            score over all labels of all rows.
        zero_division: the score, in [0, 1], of a label or row without positives and predictions. Default 0, as in
            torchmetrics; NaN excludes it from the mean.
        sample_weight: ``[...]``, >= 0, the rows' weights in every count. Default None.

    Returns:
        float32, 0-d, in [0, 1], or ``[L]``. NaN without labels under ``"macro"``, without rows under ``"samples"``,
        and without positives under ``"weighted"``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: shapes or devices differ, a value is out of range, a dense target is negative and not
            ``ignore_index``, or dense predictions are outside [0, 1], such as logits.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> predicted = CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4)
        >>> fbeta_score(predicted, targets, 2.0, "micro")
        tensor(0.9375)
    """
    average = check.check_choice("average", "none" if average is None else average, AVERAGES)
    if not (isinstance(zero_division, float) and math.isnan(zero_division)):
        zero_division = check.check_number("zero_division", zero_division, 0, 1)
    square = check.check_number("beta", beta, 0.0) ** 2
    counted = _Counted(predicted, targets, ignore_index, sample_weight)
    count = {"samples": counted.per_row, "micro": counted.total}.get(average, counted.per_label)
    positives = count(counted.positive).double()
    both = count(counted.predicted) + square * positives
    score = (1 + square) * count(counted.right) / torch.where(both > 0, both, 1.0)
    score = torch.where(both > 0, score, zero_division)
    if average == "none":
        return score.float()
    weight = {"samples": counted.weight, "weighted": positives}.get(average)
    return _mean_of_numbers(score, weight).float()


def _mean_of_numbers(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of the values that are not NaN."""
    missing = values.isnan()
    weight = (torch.ones_like(values) if weight is None else weight).masked_fill(missing, 0.0)
    return (values.masked_fill(missing, 0.0) * weight).sum() / weight.sum()


def _check_decisions(predicted: Any) -> None:
    """Check that dense predictions are in [0, 1], to reject logits."""
    if not isinstance(predicted, Tensor) or predicted.layout != torch.strided or not predicted.is_floating_point():
        return
    if predicted.numel() and not bool(((predicted >= 0) & (predicted <= 1)).all()):
        raise ValueError(
            "predicted: expected 0, 1 or probabilities, got values outside [0, 1]; for logits pass logits > 0"
        )


class _Counted:
    """Predicted pairs, positive pairs, and those that are both, without unknown labels."""

    def __init__(self, predicted: Any, targets: Any, ignore_index: float | None, sample_weight: Any = None) -> None:
        for name, given in (("predicted", predicted), ("targets", targets)):
            if not isinstance(given, (Tensor, CSRTargets)):
                check.check_dense(name, given)
        if isinstance(predicted, Tensor) and isinstance(targets, Tensor) and predicted.shape != targets.shape:
            came = tuple(predicted.shape)
            raise ValueError(f"predicted: expected targets' shape {tuple(targets.shape)}, got {came}")
        if predicted.device != targets.device:
            raise ValueError(f"predicted: expected on {targets.device}, as targets, got {predicted.device}")
        _check_decisions(predicted)
        true: Pairs = pairs_of("targets", targets, check.check_ignore_index(ignore_index))
        given = pairs_of("predicted", predicted)
        if (given.rows, given.labels) != (true.rows, true.labels):
            shape = (true.rows, true.labels)
            raise ValueError(
                f"predicted: expected {shape} rows and labels, as targets, got {(given.rows, given.labels)}"
            )
        self.rows, self.labels = true.rows, true.labels
        self.positive, self.unknown = true.positive, true.unknown
        self.predicted = given.positive[~contains(true.unknown, given.positive)]
        self.right = self.predicted[contains(true.positive, self.predicted)]
        self.weight = check_sample_weight(sample_weight, self.rows, self.positive.device)

    def wrong(self) -> Tensor:
        """Count the wrong labels of each row."""
        return self.per_row(self.predicted) + self.per_row(self.positive) - 2 * self.per_row(self.right)

    def per_row(self, pairs: Tensor) -> Tensor:
        return torch.bincount(self._row(pairs), minlength=self.rows)

    def per_label(self, pairs: Tensor) -> Tensor:
        return torch.bincount(pairs % max(self.labels, 1), self._weight(pairs), minlength=self.labels)

    def total(self, pairs: Tensor) -> Tensor:
        weight = self._weight(pairs)
        return torch.full((), len(pairs), device=pairs.device) if weight is None else weight.sum()

    def _row(self, pairs: Tensor) -> Tensor:
        return pairs.div(max(self.labels, 1), rounding_mode="floor")

    def _weight(self, pairs: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight[self._row(pairs)]
