"""What focal losses say of a label's probability."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["focal_log_odds"]


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)


def _cost_over_odds(s: Tensor) -> Tensor:
    """``-p log p / (1 - p)`` for ``p = sigmoid(s)``: 0 to 1, without an overflow on the way."""
    inverse_odds = torch.exp(-s.clamp(-80.0, 80.0))
    return torch.log1p(inverse_odds) / inverse_odds


def focal_log_odds(s: Tensor, gamma_pos: float, gamma_neg: float, clip: float = 0.0, detached: bool = False) -> Tensor:
    r"""Log-odds of a label whose expected focal loss is least at ``s``.

    Where the label is positive with probability q, the slope of the expectation is 0 at

    .. math:: \frac{q}{1 - q} = \frac{p u^{\gamma_-} / (1 - u)}{(1 - p)^{\gamma_+}} \cdot
        \frac{1 + \gamma_- g(1 - u)}{1 + \gamma_+ g(p)},
        \qquad g(x) = \frac{-x \log x}{1 - x}, \quad u = \max(p - clip, 0)

    which rises with p from 0, so that there is one least value. ``detached``: where the powers are
    constants to the gradient, the last fraction is 1. Below the clip, -inf.
    """
    odds = s if clip == 0 else F.logsigmoid(s)
    # Powers of 0 are left out: 0 * inf at infinite logits.
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
    # 1 - u, without its cancellation where p is nearly 1.
    rest = torch.sigmoid(-s) + clip
    odds = odds + gamma_neg * u.log() - rest.log()
    if not detached:
        odds = odds + torch.log1p(gamma_neg * rest * -torch.log1p(-u) / u)
    return torch.where(dead, -torch.inf, odds)
