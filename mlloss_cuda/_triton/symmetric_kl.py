# mypy: ignore-errors
"""Symmetric Kullback-Leibler divergence, as in csrc/losses/symmetric_kl.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import one_minus_exp, two_powers

__all__ = ["FUNCTOR"]


@triton.jit
def _sum(slope, difference, gap):
    return tl.where(slope > 0.0, slope * difference + gap, gap)


@triton.jit
def _evaluate_both(s, t):
    difference = tl.where(s == t, 0.0, s - t)
    apart = tl.abs(difference)
    high_power, low_power = two_powers(s, t)
    rest = 1.0 / ((1.0 + high_power) * (1.0 + low_power))
    if s.dtype == tl.float32:
        rest = tl.where(rest < 2.445e-38, 0.0, rest)
    gap = rest * tl.where(apart >= 0.35, 1.0 - high_power * low_power, one_minus_exp(apart))
    high, low = (1.0 + low_power) * rest, (1.0 + high_power) * rest
    high_slope, low_slope = high_power * high * high, low_power * low * low
    up = s > t
    signed_gap = tl.where(up, gap, -gap)
    gradient = _sum(tl.where(up, high_slope, low_slope), difference, signed_gap)
    other = -_sum(tl.where(up, low_slope, high_slope), difference, signed_gap)
    return tl.where(gap > 0.0, gap * apart, gap), gradient, other


@triton.jit
def _evaluate(s, t, parameter, p, SOFT: tl.constexpr):
    value, gradient, _ = _evaluate_both(s, t)
    return value, gradient


FUNCTOR = ElementWise(evaluate=_evaluate, second_logits=True, evaluate_both=_evaluate_both)
