"""Metrics of predicted sets of labels, counted from sparse pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _validation as check
from ..targets import CSRTargets
from ._pairs import Pairs, contains, pairs_of

__all__ = ["f1_score", "subset_accuracy"]

AVERAGES = ("samples", "macro", "micro")


def subset_accuracy(
    predicted: CSRTargets | Tensor, targets: CSRTargets | Tensor, *, ignore_index: int | None = None
) -> Tensor:
    """How many of the rows are predicted exactly: every label right.

    Args:
        predicted: ``CSRTargets``, ``torch.sparse_csr``, or dense ``[..., L]``. Values above 1/2 are predicted.
        targets: of the same shape. Values above 1/2 are positive; negative ones in ``CSRTargets`` are unknown, and
            what is predicted there does not count. Neither is made dense.
        ignore_index: dense targets equal to it are unknown. Default None.

    Returns:
        float32, 0-d, in [0, 1]. NaN of no rows.

    Raises:
        TypeError: an argument has another type.
        ValueError: shapes or devices differ, or a dense target is negative and not ``ignore_index``.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> subset_accuracy(CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4), targets)
        tensor(0.6667)
    """
    counted = _Counted(predicted, targets, ignore_index)
    wrong = counted.of_rows(counted.predicted) + counted.of_rows(counted.positive)
    wrong -= 2 * counted.of_rows(counted.right)
    return (wrong == 0).double().mean().float()


def f1_score(
    predicted: CSRTargets | Tensor,
    targets: CSRTargets | Tensor,
    average: str = "macro",
    *,
    zero_division: float = 0.0,
    ignore_index: int | None = None,
) -> Tensor:
    r"""F1, :math:`2 |P \cap Y| / (|P| + |Y|)` of predicted labels P and positives Y.

    Args:
        predicted, targets, ignore_index: as of :func:`subset_accuracy`.
        average: named as in scikit-learn. ``"macro"`` (default): of each label over all rows, the mean over L labels.
            ``"samples"``: of each row, the mean over rows. ``"micro"``: of all labels of all rows together.
        zero_division: in [0, 1], of a label or row without positives of which nothing is predicted. Default 0, as in
            torchmetrics; 1 says that it is right.

    Returns:
        float32, 0-d, in [0, 1]. NaN of no labels, or rows.

    Raises:
        TypeError: an argument has another type.
        ValueError: shapes or devices differ, a value is out of range, or a dense target is negative and not
            ``ignore_index``.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1], []], num_labels=4)
        >>> predicted = CSRTargets.from_lists([[0, 2], [1, 3], []], num_labels=4)
        >>> [f"{f1_score(predicted, targets, average).item():.3f}" for average in ("samples", "macro", "micro")]
        ['0.556', '0.750', '0.857']
    """
    average = check.check_choice("average", average, AVERAGES)
    zero_division = check.check_number("zero_division", zero_division, 0, 1)
    counted = _Counted(predicted, targets, ignore_index)
    count = {"samples": counted.of_rows, "macro": counted.of_labels, "micro": counted.of_all}[average]
    both = count(counted.predicted).double() + count(counted.positive)
    f1 = 2 * count(counted.right) / both.clamp(min=1)
    return torch.where(both > 0, f1, zero_division).mean().float()


class _Counted:
    """Predicted pairs, positive ones, and those that are both; without what is unknown."""

    def __init__(self, predicted: Any, targets: Any, ignore_index: int | None) -> None:
        for name, given in (("predicted", predicted), ("targets", targets)):
            if not isinstance(given, (Tensor, CSRTargets)):
                check.check_dense(name, given)
        if isinstance(predicted, Tensor) and isinstance(targets, Tensor) and predicted.shape != targets.shape:
            came = tuple(predicted.shape)
            raise ValueError(f"predicted: expected targets' shape {tuple(targets.shape)}, got {came}")
        if predicted.device != targets.device:
            raise ValueError(f"predicted: expected on {targets.device}, as targets, got {predicted.device}")
        wanted: Pairs = pairs_of("targets", targets, check.check_ignore_index(ignore_index))
        given = pairs_of("predicted", predicted)
        if (given.rows, given.labels) != (wanted.rows, wanted.labels):
            shape = (wanted.rows, wanted.labels)
            raise ValueError(
                f"predicted: expected {shape} rows and labels, as targets, got {(given.rows, given.labels)}"
            )
        self.rows, self.labels = wanted.rows, wanted.labels
        self.positive = wanted.positive
        self.predicted = given.positive[~contains(wanted.unknown, given.positive)]
        self.right = self.predicted[contains(wanted.positive, self.predicted)]

    def of_rows(self, pairs: Tensor) -> Tensor:
        return torch.bincount(pairs.div(max(self.labels, 1), rounding_mode="floor"), minlength=self.rows)

    def of_labels(self, pairs: Tensor) -> Tensor:
        return torch.bincount(pairs % max(self.labels, 1), minlength=self.labels)

    def of_all(self, pairs: Tensor) -> Tensor:
        return torch.full((), len(pairs), device=pairs.device)
