"""Metrics of whole rankings, for dense targets: ranking loss, coverage and average precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import CSRTargets
from ._pairs import check_sample_weight, mean_of_rows

__all__ = ["average_precision", "coverage_error", "ranking_loss"]

AVERAGES = ("macro", "micro", "samples", "weighted", "none")


def ranking_loss(logits: Tensor, targets: CSRTargets | Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
    """Compute the share of a row's pairs of a positive and a negative that are ordered wrongly; the mean over rows.

    A pair of equal logits is wrong, as in scikit-learn. (torchmetrics orders equal logits by label, so a positive is
    right or wrong by its number.)

    Args:
        logits: floating ``[..., L]``.
        targets: bool, integer or floating ``[..., L]``, ``CSRTargets`` or ``torch.sparse_csr``; values above 1/2 are
            positive. Sparse targets are made dense.
        sample_weight: ``[...]``, >= 0, the rows' weights in the mean. Default None.

    Returns:
        float32, 0-d, in [0, 1]; a row of only positives or only negatives counts as 0. NaN without rows.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes or devices differ, a logit is NaN, or a target is negative (unknown labels are not
            supported).

    Source:
        Tsoumakas, Katakis, Vlahavas, "Mining Multi-label Data", 2010.

    Example:
        >>> ranking_loss(torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[1, 1, 0]]))
        tensor(0.5000)
    """
    x, y = _dense(logits, targets)
    positive = y.bool()
    place = _places(x)
    # Positives get the last places. The negatives that are not below a positive are above or equal to it.
    negatives = place.masked_fill(positive, x.numel()).sort(1).values
    count = (~positive).sum(1, keepdim=True)
    above = (count - torch.searchsorted(negatives, place)).masked_fill(~positive, 0).sum(1)
    pairs = (count[:, 0] * positive.sum(1)).clamp(min=1)
    return mean_of_rows(above / pairs.double(), check_sample_weight(sample_weight, len(x), x.device)).float()


def coverage_error(logits: Tensor, targets: CSRTargets | Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
    """Compute the number of highest labels that include all positives of a row; the mean over rows.

    Equal logits are taken together, as in scikit-learn. A row without positives counts as 0.

    Args:
        logits, targets, sample_weight: as in :func:`ranking_loss`.

    Returns:
        float32, 0-d, in [0, L]. NaN without rows.

    Raises:
        TypeError, ValueError: as in :func:`ranking_loss`.

    Source:
        Tsoumakas, Katakis, Vlahavas, "Mining Multi-label Data", 2010, whose coverage is lower by one.

    Example:
        >>> coverage_error(torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([[1, 1, 0]]))
        tensor(3.)
    """
    x, y = _dense(logits, targets)
    place = _places(x)
    last = torch.where(y.bool(), place, x.numel())
    last = last.amin(1, keepdim=True) if x.shape[1] else last
    taken = (place >= last).sum(1)
    return mean_of_rows(taken, check_sample_weight(sample_weight, len(x), x.device)).float()


def average_precision(
    logits: Tensor,
    targets: CSRTargets | Tensor,
    average: str | None = "macro",
    *,
    zero_division: float = math.nan,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Compute the area under the precision-recall curve by torchmetrics, or with ``sample_weight`` by scikit-learn.

    Args:
        logits, targets: as in :func:`ranking_loss`.
        average: ``"macro"`` (default): the value of each label over all rows, then the mean over labels.
            ``"weighted"``: that mean weighted by the labels' numbers of positives. ``"none"`` or None: the value of
            each label. ``"micro"``: one value over all labels together. ``"samples"``: the value of each row, then the
            mean over rows (label ranking average precision), in which a row without positives counts as 1.
        zero_division: the value, in [0, 1], of a label without positives. NaN (default) excludes it from ``"macro"``;
            0 counts it, as torchmetrics 1.9 and scikit-learn do.
        sample_weight: ``[...]``, >= 0, the rows' weights. Values are computed by NumPy. Default None.

    Returns:
        float32, 0-d, in [0, 1], or ``[L]``. NaN without rows or labels, and, without positives, under ``"weighted"``,
        ``"micro"`` and, by default, ``"macro"``.

    Raises:
        ImportError: torchmetrics or scikit-learn is missing.
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes or devices differ, ``average`` or ``zero_division`` is not allowed, a logit is NaN, or a
            target is negative.

    Example:
        >>> logits, targets = torch.tensor([[0.3, 0.1], [0.2, 0.4]]), torch.tensor([[1, 0], [0, 1]])
        >>> average_precision(logits, targets)  # doctest: +SKIP
        tensor(1.)
    """
    average = check.check_choice("average", "none" if average is None else average, AVERAGES)
    if not (isinstance(zero_division, float) and math.isnan(zero_division)):
        zero_division = check.check_number("zero_division", zero_division, 0, 1)
    x, y = _dense(logits, targets)
    weight = check_sample_weight(sample_weight, len(x), x.device)
    compute: Any = _sklearn
    if weight is None:
        _functional()  # raises if torchmetrics is missing, whatever the targets are
        compute = _torchmetrics
    if not x.numel():
        return torch.full(x.shape[1:] if average == "none" else (), torch.nan, device=x.device)
    if average in ("samples", "micro"):
        if average == "micro" and not bool(y.any()):
            return torch.full((), torch.nan, device=x.device)
        return compute(x, y, weight, average)
    positives = y.double().sum(0) if weight is None else weight @ y.double()
    seen = positives > 0
    values = torch.full((x.shape[1],), zero_division, device=x.device)
    if bool(seen.any()):
        values[seen] = compute(x[:, seen], y[:, seen], weight, "none")
    if average == "none":
        return values
    if average == "weighted":
        return ((values[seen] * positives[seen]).sum() / positives.sum()).float()
    return values.nanmean()


def _torchmetrics(x: Tensor, y: Tensor, weight: None, average: str) -> Tensor:
    functional, given = _functional(), {"num_labels": x.shape[1], "validate_args": False}
    if average == "samples":
        return functional.multilabel_ranking_average_precision(_between_0_and_1(x), y, **given)
    return functional.multilabel_average_precision(_between_0_and_1(x), y, average=average, **given)


def _sklearn(x: Tensor, y: Tensor, weight: Tensor, average: str) -> Tensor:
    try:
        from sklearn import metrics
    except ImportError as error:
        message = "average_precision with sample_weight needs scikit-learn: pip install scikit-learn"
        raise ImportError(message) from error
    true, place, given = (each.cpu().numpy() for each in (y, _places(x), weight))
    if average == "samples":
        found = metrics.label_ranking_average_precision_score(true, place, sample_weight=given)
    else:
        kind = None if average == "none" else average
        found = metrics.average_precision_score(true, place, average=kind, sample_weight=given)
    return torch.as_tensor(found, dtype=torch.float32, device=x.device)


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
        _, _, value = _counts.entries(targets)
        if value is not None and bool((value < 0).any()):
            raise ValueError("targets: expected no unknown labels, got negative values")
        return logits, (targets.to_dense() > 0.5).long()
    targets = targets.reshape(logits.shape)
    _counts.unknown_in(targets, None)
    return logits, (targets > 0.5).long()


def _places(logits: Tensor) -> Tensor:
    """Return the rank of each logit among all of them; equal logits have the same rank."""
    return logits.unique(return_inverse=True)[1]


def _between_0_and_1(logits: Tensor) -> Tensor:
    """Scale ranks to [0, 1], to which torchmetrics applies no sigmoid, which would make large logits equal."""
    place = _places(logits).to(torch.float64)
    return place / place.max().clamp(min=1) if place.numel() else place
