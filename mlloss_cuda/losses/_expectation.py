"""The expected value of an element-wise loss, for targets that are probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["expectation"]


def expectation(
    s: Tensor, y: Tensor, positive: Callable[[Tensor], Tensor], negative: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return ``y positive(s) + (1 - y) negative(s)``; a target of exactly 0 or 1 has one of the terms only.

    Selections before and after keep NaN and infinities of the other term out of the value and the gradient.
    """
    up, down = torch.where(y > 0, s, 0.0), torch.where(y < 1, s, 0.0)
    return torch.where(y > 0, y * positive(up), 0.0) + torch.where(y < 1, (1 - y) * negative(down), 0.0)
