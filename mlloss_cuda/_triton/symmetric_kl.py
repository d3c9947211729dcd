# mypy: ignore-errors
"""Symmetric Kullback-Leibler divergence; the twin of csrc/losses/symmetric_kl.h, where the formulas' reasons are."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import one_minus_exp

__all__ = ["FUNCTOR"]


@triton.jit
def _sides(x):
    """The sigmoids of x and of -x."""
    tail = tl.exp(-tl.abs(x))
    r = 1.0 / (1.0 + tail)
    rest = tail * r
    up = x >= 0.0
    return tl.where(up, r, rest), tl.where(up, rest, r)


@triton.jit
def _evaluate(s, t, parameter, p, SOFT: tl.constexpr):
    apart = tl.where(s == t, 0.0, tl.abs(s - t))
    low, high = _sides(s)
    other_low, other_high = _sides(t)
    up = s > t
    gap = tl.where(up, low * other_high, other_low * high) * one_minus_exp(apart)
    slope = low * high
    value = tl.where(gap == 0.0, 0.0, gap * apart)
    gradient = tl.where(slope > 0.0, slope * apart, 0.0) + gap
    return value, tl.where(up, gradient, -gradient)


FUNCTOR = ElementWise(evaluate=_evaluate, raw_targets=True)
