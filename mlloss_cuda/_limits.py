"""The functions that definitions are written in: their values and gradients take their limits at infinite logits.

Plain PyTorch has ``inf - inf`` and ``0 * inf`` there, in the value or on the way back. Each of these may be
differentiated twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["above", "exponential_sum", "saturated", "scaled", "softplus", "weighed"]


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``: 0 at -inf, inf at inf, with slopes of 0 and 1."""
    return -F.logsigmoid(-x)


def saturated(x: Tensor) -> Tensor:
    """``x``, with no gradient at infinities: for functions that are bounded, such as the sigmoid and its powers.

    Their slope vanishes there, and faster than whatever they are multiplied by grows.
    """
    return torch.where(x.isinf(), x.detach(), x)


def weighed(factor: Tensor | float, cost: Tensor) -> Tensor:
    """``factor * cost`` for a constant factor and a cost >= 0: what weighs nothing costs nothing, were it infinite."""
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
    """``x - m`` for a constant m that broadcasts to x: 0 for equal infinities, and a slope of 1 there too."""
    result: Tensor = _Above.apply(x, m.detach())
    return result


def exponential_sum(x: Tensor, weight: Tensor, dim: tuple[int, ...], least: float = -math.inf) -> tuple[Tensor, Tensor]:
    """m and S with ``e^m S = sum weight e^x``; m is the largest term's logarithm, or ``least`` if that is more.

    Equal infinities share the sum, and its gradient. Both are ``keepdim``; m is a constant.
    """
    there = weight > 0
    logs = torch.where(there, weight, 1.0).log()
    m = torch.where(there, x.detach() + logs, -math.inf)
    m = m.amax(dim, keepdim=True).clamp(min=least) if x.numel() else x.new_full((), least)
    terms = torch.where(there, (above(torch.where(there, x, -math.inf), m) + logs).exp(), 0.0)
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
    """``scale * x`` for a number or a 0-d tensor, whose gradient has nothing of an infinite x where none flows."""
    if not isinstance(scale, Tensor):
        return x * scale
    result: Tensor = _Scaled.apply(x, scale)
    return result
