# mypy: ignore-errors
"""Symmetric Kullback-Leibler divergence, as in csrc/losses/symmetric_kl.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import one_minus_exp, sigmoids

__all__ = ["FUNCTOR"]


@triton.jit
def _evaluate(s, t, parameter, p, SOFT: tl.constexpr):
    apart = tl.where(s == t, 0.0, tl.abs(s - t))
    low, high = sigmoids(s)
    other_low, other_high = sigmoids(t)
    up = s > t
    upper = tl.where(up, low * other_high, other_low * high)
    lower = tl.where(up, other_low * high, low * other_high)
    gap = tl.where(apart < 0.35, upper * one_minus_exp(apart), upper - lower)
    slope = low * high
    value = tl.where(gap == 0.0, 0.0, gap * apart)
    gradient = tl.where(slope > 0.0, slope * apart, 0.0) + gap
    return value, tl.where(up, gradient, -gradient)


FUNCTOR = ElementWise(evaluate=_evaluate, second_logits=True)
