"""The common definition of Dice, Tversky and Jaccard, which differ in their coefficients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .._registry import LossSpec, register

__all__ = ["ADJUSTED", "AVERAGES", "OVERLAP_SAYS", "SPEC", "coefficients"]

AVERAGES = ("samples", "macro", "micro")
# The reason why these losses estimate no probabilities.
OVERLAP_SAYS = "the expected loss is minimal at 0 or 1, depending on the overlap of the whole group"


def coefficients(
    smooth: float, squared: bool = False, alpha: float = 0.5, beta: float = 0.5, gamma: float = 1.0, log: bool = False
) -> tuple[float, ...]:
    """Return the functor's parameters for Tversky's ``(I + smooth) / (I + alpha FP + beta FN + smooth)``.

    The functor has numerator and denominator times 2.
    """
    return 2 * smooth, float(squared), 2 * alpha, 2 * beta, gamma, float(log)


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    smooth, squared, a, b, gamma, log, *focus = parameters
    p = torch.sigmoid(s)
    for power in focus:
        p = (power * F.logsigmoid(-s)).exp() * p
    both, predicted, true = p * y, p * p if squared else p, y * y if squared else y
    if w is not None:
        both, predicted, true = both * w, predicted * w, true * w
    overlap = both.sum(dim)
    numerator = 2 * overlap + smooth
    denominator = (2 - a - b) * overlap + (a * predicted + b * true).sum(dim) + smooth
    # An empty group without smoothing has a loss of 0; the fraction 0 / 0 would be NaN.
    empty = denominator == 0
    score = torch.where(empty, 1.0, numerator / torch.where(empty, 1.0, denominator))
    if log:
        # The loss is infinite if nothing overlaps, and only the denominator's gradient is left.
        none = score == 0
        return torch.where(
            none, torch.inf + torch.where(none, denominator, 1.0).log(), -torch.where(none, 1.0, score).log()
        )
    loss = 1 - score
    if gamma == 1:
        return loss
    lost = ~(loss <= 0)
    return torch.where(lost, torch.where(lost, loss, 1.0) ** gamma, 0.0)


SPEC = register(LossSpec(name="dice", groupings=AVERAGES, coefficients=2, reference=_reference, statistics=3))
ADJUSTED = register(
    LossSpec(name="self_adjusting_dice", groupings=AVERAGES, coefficients=2, reference=_reference, statistics=3)
)
