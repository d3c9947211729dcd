"""Metrics of whole rankings, by torchmetrics: for labels that are few enough to be dense."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import CSRTargets

__all__ = ["average_precision", "ranking_loss"]


def ranking_loss(logits: Tensor, targets: CSRTargets | Tensor) -> Tensor:
    """Of a row's pairs of a positive and a negative, how many are the wrong way round; the mean over rows.

    Args:
        logits: floating ``[..., L]``.
        targets: bool, integer or floating ``[..., L]``, ``CSRTargets`` or ``torch.sparse_csr``; values above 1/2 are
            positive. Sparse ones are made dense.

    Returns:
        float32, 0-d, in [0, 1]; 0 for rows of one kind.

    Raises:
        ImportError: torchmetrics is missing.
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices differ, a logit is NaN, or a target is negative (unknown labels have no place
            here).

    Example:
        >>> ranking_loss(torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[1, 1, 0]]))  # doctest: +SKIP
        tensor(0.5000)
    """
    functional = _functional()
    x, y = _dense(logits, targets)
    return functional.multilabel_ranking_loss(_between_0_and_1(x), y, num_labels=x.shape[1], validate_args=False)


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
        wanted = 'pip install "mlloss-cuda[metrics]"'
        raise ImportError(f"ranking_loss and average_precision need torchmetrics: {wanted}") from error
    return classification


def _dense(logits: Any, targets: Any) -> tuple[Tensor, Tensor]:
    logits = check.check_logits(logits).detach()
    if bool(logits.isnan().any()):
        raise ValueError("logits: expected no NaN, got some")
    targets = check.check_targets(targets, logits)
    logits = logits.reshape(-1, logits.shape[-1])
    if isinstance(targets, CSRTargets):
        if targets.values is not None and bool((targets.values < 0).any()):
            raise ValueError("targets: expected no unknown labels, got negative values")
        return logits, (targets.to_dense() > 0.5).long()
    targets = targets.reshape(logits.shape)
    _counts.unknown_in(targets, None)
    return logits, (targets > 0.5).long()


def _between_0_and_1(logits: Tensor) -> Tensor:
    """Ranks within [0, 1], which torchmetrics leaves as they are; its sigmoid would make large logits equal."""
    values, place = logits.unique(return_inverse=True)
    return place.to(torch.float64) / max(len(values) - 1, 1)
