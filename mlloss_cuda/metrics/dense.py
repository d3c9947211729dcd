"""Metrics of whole rankings, for labels that are few enough to be dense: average precision by torchmetrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import CSRTargets

__all__ = ["average_precision", "ranking_loss"]


def ranking_loss(logits: Tensor, targets: CSRTargets | Tensor) -> Tensor:
    """Of a row's pairs of a positive and a negative, how many are the wrong way round; the mean over rows.

    Equal logits count as the wrong way round, as in scikit-learn. (torchmetrics goes by their order then, so that a
    positive label is right or wrong by its number.)

    Args:
        logits: floating ``[..., L]``.
        targets: bool, integer or floating ``[..., L]``, ``CSRTargets`` or ``torch.sparse_csr``; values above 1/2 are
            positive. Sparse ones are made dense.

    Returns:
        float32, 0-d, in [0, 1]; a row of one kind counts as 0. NaN without rows.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices differ, a logit is NaN, or a target is negative (unknown labels have no place
            here).

    Source:
        Tsoumakas, Katakis, Vlahavas, "Mining Multi-label Data", 2010.

    Example:
        >>> ranking_loss(torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[1, 1, 0]]))
        tensor(0.5000)
    """
    x, y = _dense(logits, targets)
    positive = y.bool()
    place = _places(x)
    # Positives go last. Negatives that do not come before a positive are above or beside it.
    negatives = place.masked_fill(positive, x.numel()).sort(1).values
    count = (~positive).sum(1, keepdim=True)
    above = (count - torch.searchsorted(negatives, place)).masked_fill(~positive, 0).sum(1)
    pairs = (count[:, 0] * positive.sum(1)).clamp(min=1)
    return (above / pairs.double()).mean().float()


def average_precision(logits: Tensor, targets: CSRTargets | Tensor, average: str = "macro") -> Tensor:
    """The area under the curve of precision over recall.

    Args:
        logits, targets: as of :func:`ranking_loss`.
        average: ``"macro"`` (default): of each label over all rows, the mean over labels that have positives.
            ``"micro"``: of all labels together. ``"samples"``: of each row, the mean over rows (label ranking average
            precision).

    Returns:
        float32, 0-d, in [0, 1]. NaN under ``"macro"`` and ``"micro"`` where nothing is positive.

    Raises:
        ImportError: torchmetrics is missing.
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices differ, ``average`` is another, a logit is NaN, or a target is negative.

    Example:
        >>> logits, targets = torch.tensor([[0.3, 0.1], [0.2, 0.4]]), torch.tensor([[1, 0], [0, 1]])
        >>> average_precision(logits, targets)  # doctest: +SKIP
        tensor(1.)
    """
    average = check.check_choice("average", average, ("macro", "micro", "samples"))
    functional = _functional()
    x, y = _dense(logits, targets)
    given = {"num_labels": x.shape[1], "validate_args": False}
    if average == "samples":
        return functional.multilabel_ranking_average_precision(_between_0_and_1(x), y, **given)
    if average == "macro":
        # They warn of labels without positives, and leave them out.
        seen = y.any(0)
        if not bool(seen.any()):
            return torch.full((), torch.nan, device=x.device)
        x, y, given["num_labels"] = x[:, seen], y[:, seen], int(seen.sum())
    return functional.multilabel_average_precision(_between_0_and_1(x), y, average=average, **given)


def _functional() -> Any:
    try:
        from torchmetrics.functional import classification
    except ImportError as error:
        raise ImportError('average_precision needs torchmetrics: pip install "mlloss-cuda[metrics]"') from error
    return classification


def _dense(logits: Any, targets: Any) -> tuple[Tensor, Tensor]:
    logits = check.check_logits(logits).detach()
    if bool(logits.isnan().any()):
        raise ValueError("logits: expected no NaN, got some")
    targets = check.check_targets(targets, logits)
    logits = logits.reshape(math.prod(logits.shape[:-1]), logits.shape[-1])
    if isinstance(targets, CSRTargets):
        if targets.values is not None and bool((targets.values < 0).any()):
            raise ValueError("targets: expected no unknown labels, got negative values")
        return logits, (targets.to_dense() > 0.5).long()
    targets = targets.reshape(logits.shape)
    _counts.unknown_in(targets, None)
    return logits, (targets > 0.5).long()


def _places(logits: Tensor) -> Tensor:
    """Their order among all of them, equal ones at the same place."""
    return logits.unique(return_inverse=True)[1]


def _between_0_and_1(logits: Tensor) -> Tensor:
    """Ranks within [0, 1], which torchmetrics leaves as they are; its sigmoid would make large logits equal."""
    place = _places(logits).to(torch.float64)
    return place / place.max().clamp(min=1) if place.numel() else place
