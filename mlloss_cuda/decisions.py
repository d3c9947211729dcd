"""Decision thresholds on logits that maximise a metric on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import _counts, _ops
from . import _validation as check
from .targets import CSRTargets

__all__ = ["fit_thresholds"]

METRICS = ("f1", "fbeta", "accuracy")
AVERAGES = ("macro", "micro", "samples")

# A function of the counts of true positives, predicted, positive and known labels.
Metric = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def fit_thresholds(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    metric: str = "f1",
    average: str = "macro",
    *,
    beta: float = 1.0,
    ignore_index: float | None = None,
) -> Tensor:
    """Find the thresholds for which ``logits > thresholds`` maximises a metric, exactly, by sorting.

    They are useful for losses that rank labels without a threshold, and for any loss if a certain metric matters.
    Use held-out data, because a model is overconfident on its training data. With few positives a
    separate threshold for each label overfits, and ``average="micro"`` generalises better. No ``[B, L]`` targets
    are formed; memory beside the inputs is a few chunks of 4 million elements, or of one row or column if that is
    larger.

    Args:
        logits: ``[..., L]``, float32, bfloat16, float16 or float64, without NaN or +inf. They are the raw logits: a
            loss's ``logit_scale`` and ``logit_bias`` are not applied.
        targets: dense bool, integer or floating ``[..., L]``, ``CSRTargets`` or ``torch.sparse_csr``.
            Integers >= 1 and probabilities above 1/2 are positive; a negative value in ``CSRTargets`` is an
            unknown label, which is not counted.
        metric: ``"f1"`` (default), ``"fbeta"`` (a ``beta`` above 1 favours recall), or ``"accuracy"`` (of single
            labels).
        average: named as in scikit-learn. ``"macro"`` (default): a threshold for each label, the best one for
            the label and so for the mean over labels. ``"micro"``: one threshold, the best for all labels of all
            rows counted together. ``"samples"``: one threshold, the best for the mean over rows, which
            excludes rows without positives (under accuracy, rows without known labels).
        beta: > 0, for ``"fbeta"``. Default 1.0.
        ignore_index: dense targets equal to it are unknown. Default None.

    Returns:
        float32 (float64 for float64): ``[L]`` for ``"macro"``, else 0-d. A threshold is halfway between the lowest
        logit above it and the highest logit below it, if the logits' dtype has a value between them, or just below the
        lowest logit of all; among equally good thresholds it is the highest. Without positives it is +inf, so that
        nothing is predicted. The thresholds can be used as ``ZLPRLoss``'s ``threshold``; for training, unlike for
        ``predict``, they must be finite.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes or devices do not fit, a value is out of range, the logits have NaN or +inf, or a
            target is negative and not ``ignore_index``.

    Source:
        Threshold search by rank: Lipton, Elkan, Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1
        Measure", 2014, arXiv:1402.1892. The best threshold lies just below a positive's logit, so a common threshold
        needs only the positives sorted, and the other logits counted between them.

    Example:
        >>> logits = torch.tensor([[0.5, 2.0], [1.5, 0.0], [-1.0, 1.0]])
        >>> targets = torch.tensor([[1, 1], [1, 0], [0, 1]])
        >>> fit_thresholds(logits, targets)
        tensor([-0.2500,  0.5000])
        >>> fit_thresholds(logits, targets, average="micro")
        tensor(0.2500)
    """
    logits = check.check_logits(logits).detach()
    rows, labels = math.prod(logits.shape[:-1]), logits.shape[-1]
    targets = check.check_targets(targets, logits)
    average = check.check_choice("average", average, AVERAGES)
    measure = _metric(
        check.check_choice("metric", metric, METRICS), check.check_number("beta", beta, open_low=True, low=0)
    )
    ignore_index = check.check_ignore_index(ignore_index)
    flat = logits.reshape(rows, labels)
    dense = targets if isinstance(targets, CSRTargets) else targets.reshape(rows, labels)
    if average == "macro":
        return _for_each_label(flat, _Targets(dense, ignore_index, by_label=True), measure)
    return _for_all(flat, _Targets(dense, ignore_index), measure, by_row=average == "samples")


def _metric(metric: str, beta: float) -> Metric:
    square = 1.0 if metric == "f1" else beta * beta

    def f(true: Tensor, predicted: Tensor, positive: Tensor, known: Tensor) -> Tensor:
        # The score is 0 if nothing is positive or predicted.
        return (1 + square) * true / (square * positive + predicted).clamp(min=1e-300)

    def accuracy(true: Tensor, predicted: Tensor, positive: Tensor, known: Tensor) -> Tensor:
        return (known - positive - predicted + 2 * true) / known.clamp(min=1)

    return accuracy if metric == "accuracy" else f


class _Targets:
    """The positive and the unknown labels, read by chunks of rows or of labels."""

    def __init__(self, targets: Tensor | CSRTargets, ignore_index: int | None, by_label: bool = False) -> None:
        self.ignore_index, self.by_label = ignore_index, by_label
        self.dense = targets if isinstance(targets, Tensor) else None
        if isinstance(targets, Tensor):
            return
        row, label, value = _counts.entries(targets, ignore_index)
        along, across = (label, row) if by_label else (row, label)
        if by_label:
            order = along.argsort(stable=True)
            along, across, value = along[order], across[order], None if value is None else value[order]
        self.along, self.across, self.value = along, across, value

    def part(self, chosen: slice, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return bool masks of positives and of unknown labels for the chunk ``chosen`` of the logits."""
        if self.dense is not None:
            y = self.dense[:, chosen] if self.by_label else self.dense[chosen]
            return y > 0.5, _counts.unknown_in(y, self.ignore_index)
        bounds = torch.tensor([chosen.start, chosen.stop], device=self.along.device)
        first, last = torch.searchsorted(self.along, bounds).tolist()
        along, across = self.along[first:last] - chosen.start, self.across[first:last]
        place = (across, along) if self.by_label else (along, across)
        positive = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        if self.value is None:
            positive[place] = True
            return positive, None
        value = self.value[first:last]
        positive[place] = value > 0.5
        unknown = torch.zeros_like(positive)
        unknown[place] = value < 0
        return positive, unknown


def _checked(part: Tensor) -> Tensor:
    if bool((~(part < torch.inf)).any()):
        raise ValueError("logits: expected no NaN and no +inf, got some")
    return part


def _between(upper: Tensor, lower: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a value at or above ``lower`` and below ``upper``, in the middle if ``dtype`` has such a value."""
    middle = (lower + (upper - lower) / 2).to(dtype).to(upper.dtype)
    limits = torch.finfo(dtype)
    below = (upper - (upper.abs() * limits.eps).clamp(min=limits.tiny)).to(dtype).to(upper.dtype)
    found = torch.where((middle >= lower) & (middle < upper), middle, lower)
    return torch.where(lower == -torch.inf, below, found)


def _for_each_label(logits: Tensor, targets: _Targets, measure: Metric) -> Tensor:
    rows, labels = logits.shape
    thresholds = torch.full((labels,), torch.inf, dtype=_ops.compute_dtype(logits), device=logits.device)
    if rows == 0:
        return thresholds
    step = max(1, _counts.CHUNK // rows)
    for start in range(0, labels, step):
        chosen = slice(start, min(start + step, labels))
        part = _checked(logits[:, chosen])
        positive, unknown = targets.part(chosen, part)
        thresholds[chosen] = _best_of_columns(part, positive, unknown, measure)
    return thresholds


def _best_of_columns(logits: Tensor, positive: Tensor, unknown: Tensor | None, measure: Metric) -> Tensor:
    x = logits.to(_ops.compute_dtype(logits))
    if unknown is not None:
        x, positive = torch.where(unknown, -torch.inf, x), positive & ~unknown
    x, order = x.sort(0, descending=True)
    true = positive.gather(0, order).double().cumsum(0)
    known = torch.full_like(true[:1], len(x)) if unknown is None else (~unknown).sum(0, keepdim=True).double()
    predicted = torch.arange(1, len(x) + 1, dtype=torch.float64, device=x.device)[:, None]
    all_positive = positive.sum(0, keepdim=True).double()
    value = measure(true, predicted, all_positive, known)
    # Equal logits are predicted together; -inf never is, because no threshold is below it.
    next_ = torch.cat([x[1:], torch.full_like(x[:1], -torch.inf)])
    value = torch.where((x > next_), value, -torch.inf)
    none_predicted = measure(torch.zeros_like(known), torch.zeros_like(known), all_positive, known)
    best = torch.cat([none_predicted, value]).argmax(0, keepdim=True)
    taken = (best - 1).clamp(min=0)
    found = _between(x.gather(0, taken), next_.gather(0, taken), logits.dtype)
    found = torch.where(best > 0, found, x[:1])
    return torch.where((all_positive > 0) & (x[:1] > -torch.inf), found, torch.inf).squeeze(0)


def _for_all(logits: Tensor, targets: _Targets, measure: Metric, by_row: bool) -> Tensor:
    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for chosen in _counts.rows_at_once(*logits.shape):
            part = _checked(logits[chosen]).to(_ops.compute_dtype(logits))
            positive, unknown = targets.part(chosen, part)
            yield part, (positive if unknown is None else positive & ~unknown), unknown

    none = torch.full((), torch.inf, dtype=_ops.compute_dtype(logits), device=logits.device)
    positives = [part[positive] for part, positive, _ in parts()]
    # The threshold is just below one of these logits, or infinite, so that nothing is predicted.
    candidates = torch.cat(positives).unique() if positives else none[None][:0]
    candidates = candidates[candidates > -torch.inf]
    if candidates.numel() == 0:
        return none
    gain = _row_gains(parts(), candidates, measure) if by_row else _gains(parts(), candidates, measure)
    # Among equal gains, take the highest candidate.
    best = len(candidates) - int(gain.flip(0).argmax())
    upper = candidates[best] if best < len(candidates) else none
    lower = none.neg()
    for part, _, _ in parts():
        if part.numel():
            lower = torch.maximum(lower, torch.where(part < upper, part, -torch.inf).amax())
    return lower if best == len(candidates) else _between(upper, lower, logits.dtype)


Parts = Iterator[tuple[Tensor, Tensor, Tensor | None]]


def _above(counts: Tensor) -> Tensor:
    """Sum the counts of each bin and all higher ones."""
    return counts.flip(0).cumsum(0).flip(0)


def _bins(part: Tensor, candidates: Tensor) -> Tensor:
    return torch.searchsorted(candidates, part.contiguous(), right=True)


def _gains(parts: Parts, candidates: Tensor, measure: Metric) -> Tensor:
    """Return the metric over all rows with each candidate as the lowest predicted logit, and last with none."""
    size = len(candidates) + 1
    taken = torch.zeros(2, size, dtype=torch.float64, device=candidates.device)
    known = torch.zeros((), dtype=torch.float64, device=candidates.device)
    for part, positive, unknown in parts:
        bins = _bins(part, candidates)
        taken[0] += torch.bincount(bins[positive], minlength=size)
        taken[1] += torch.bincount(bins.flatten() if unknown is None else bins[~unknown], minlength=size)
        known += part.numel() if unknown is None else (~unknown).sum()
    all_positive = taken[0].sum()
    true, predicted = (torch.cat([_above(row)[1:], row.new_zeros(1)]) for row in taken)
    return measure(true, predicted, all_positive, known)


def _row_gains(parts: Parts, candidates: Tensor, measure: Metric) -> Tensor:
    """Return the sum over rows of the metric of each row, up to a constant, for the same candidates.

    Each logit adds the change of its row's metric when it becomes predicted.
    """
    size = len(candidates) + 1
    changes = torch.zeros(size, dtype=torch.float64, device=candidates.device)
    for part, positive, unknown in parts:
        x = part if unknown is None else torch.where(unknown, -torch.inf, part)
        x, order = x.sort(1, descending=True)
        true = positive.gather(1, order).double().cumsum(1)
        known = (
            torch.full_like(true[:, :1], x.shape[1]) if unknown is None else (~unknown).sum(1, keepdim=True).double()
        )
        predicted = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device)
        all_positive = positive.sum(1, keepdim=True).double()
        value = measure(true, predicted, all_positive, known)
        none_predicted = measure(torch.zeros_like(known), torch.zeros_like(known), all_positive, known)
        # Unknown labels, sorted last at -inf, are in the bin below all candidates.
        changes += torch.bincount(
            _bins(x, candidates).flatten(), torch.diff(value, dim=1, prepend=none_predicted).flatten(), size
        )
    return torch.cat([_above(changes)[1:], changes.new_zeros(1)])
