"""The probability of a label that focal losses estimate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["focal_log_odds"]


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)


def _cost_over_odds(s: Tensor) -> Tensor:
    """Return ``-p log p / (1 - p)`` for ``p = sigmoid(s)``, which is in [0, 1], without an overflow."""
    inverse_odds = torch.exp(-s.clamp(-80.0, 80.0))
    return torch.log1p(inverse_odds) / inverse_odds


def focal_log_odds(s: Tensor, gamma_pos: float, gamma_neg: float, clip: float = 0.0, detached: bool = False) -> Tensor:
    r"""Return the log-odds of a label whose expected focal loss is minimal at ``s``.

    If the label is positive with probability q, the derivative of the expectation is 0 at

    .. math:: \frac{q}{1 - q} = \frac{p u^{\gamma_-} / (1 - u)}{(1 - p)^{\gamma_+}} \cdot
        \frac{1 + \gamma_- g(1 - u)}{1 + \gamma_+ g(p)},
        \qquad g(x) = \frac{-x \log x}{1 - x}, \quad u = \max(p - clip, 0)

    which increases with p from 0, so there is exactly one minimum. With ``detached``, the powers are constants for
    the gradient, and the last fraction is 1. Below the clip the result is -inf.
    """
    odds = s if clip == 0 else F.logsigmoid(s)
    # Terms with gamma = 0 are omitted, because 0 * inf is NaN at infinite logits.
    if gamma_pos:
        odds = odds + gamma_pos * _softplus(s)
    if gamma_pos and not detached:
        odds = odds - torch.log1p(gamma_pos * _cost_over_odds(s))
    if clip == 0:
        if gamma_neg:
            odds = odds + gamma_neg * F.logsigmoid(s)
        if gamma_neg and not detached:
            odds = odds + torch.log1p(gamma_neg * _cost_over_odds(-s))
        return odds
    shifted = torch.sigmoid(s) - clip
    dead = shifted <= 0
    u = torch.where(dead, 0.5, shifted)
    # This is 1 - u without cancellation if p is close to 1.
    rest = torch.sigmoid(-s) + clip
    odds = odds + gamma_neg * u.log() - rest.log()
    if not detached:
        odds = odds + torch.log1p(gamma_neg * rest * -torch.log1p(-u) / u)
    return torch.where(dead, -torch.inf, odds)
