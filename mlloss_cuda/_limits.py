"""Functions for the reference definitions whose values and gradients have their limits at infinite logits.

Plain PyTorch would compute ``inf - inf`` or ``0 * inf`` there, in the forward or the backward. All of these functions
can be differentiated twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["above", "exponential_sum", "saturated", "scaled", "softplus", "weighed"]


def softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + e^x)``: 0 at -inf, inf at inf, with slopes of 0 and 1."""
    return -F.logsigmoid(-x)


def saturated(x: Tensor) -> Tensor:
    """Return ``x`` without a gradient at infinities, for bounded functions such as the sigmoid and its powers.

    Their slope vanishes there, faster than any factor of a loss grows.
    """
    return torch.where(x.isinf(), x.detach(), x)


def weighed(factor: Tensor | float, cost: Tensor) -> Tensor:
    """Return ``factor * cost`` for a constant factor and a cost >= 0; it is 0 for a factor of 0 and infinite cost."""
    factor = torch.as_tensor(factor, dtype=cost.dtype, device=cost.device)
    return factor * torch.where((factor == 0) & cost.isinf(), 0.0, cost)


class _Above(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, m: Tensor) -> Tensor:
        return torch.where(x == m, 0.0, x - m)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0], None


def above(x: Tensor, m: Tensor) -> Tensor:
    """Return ``x - m`` for a constant m that broadcasts to x: 0 for equal infinities, where the slope is 1 too."""
    result: Tensor = _Above.apply(x, m.detach())
    return result


def exponential_sum(x: Tensor, weight: Tensor, dim: tuple[int, ...], least: float = -math.inf) -> tuple[Tensor, Tensor]:
    """Return m and S with ``e^m S = sum weight e^x``; m is the largest term's logarithm, or ``least`` if larger.

    Equal infinities contribute equally to the sum and to its gradient. Both results are ``keepdim``; m is a constant.
    """
    present = weight > 0
    logs = torch.where(present, weight, 1.0).log()
    m = torch.where(present, x.detach() + logs, -math.inf)
    m = m.amax(dim, keepdim=True).clamp(min=least) if x.numel() else x.new_full((), least)
    terms = torch.where(present, (above(torch.where(present, x, -math.inf), m) + logs).exp(), 0.0)
    return m, terms.sum(dim, keepdim=True)


class _Scaled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return x * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (g,), (x, scale) = grad_outputs, ctx.saved_tensors
        return g * scale, torch.where(g == 0, 0.0, g * x).sum()


def scaled(x: Tensor, scale: Tensor | float) -> Tensor:
    """Return ``scale * x`` for a number or 0-d tensor; an infinite x with gradient 0 adds nothing to its gradient."""
    if not isinstance(scale, Tensor):
        return x * scale
    result: Tensor = _Scaled.apply(x, scale)
    return result
