"""Losses of one label at a time, where targets may be probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["expectation"]


def expectation(
    s: Tensor, y: Tensor, positive: Callable[[Tensor], Tensor], negative: Callable[[Tensor], Tensor]
) -> Tensor:
    """``y positive(s) + (1 - y) negative(s)``, where a label that is certain has one term.

    Selected before and after: neither value nor gradient of the other term may spoil it.
    """
    up, down = torch.where(y > 0, s, 0.0), torch.where(y < 1, s, 0.0)
    return torch.where(y > 0, y * positive(up), 0.0) + torch.where(y < 1, (1 - y) * negative(down), 0.0)
