# mypy: ignore-errors
"""Symmetric Kullback-Leibler divergence, as in csrc/losses/symmetric_kl.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import negated_power, one_minus_exp

__all__ = ["FUNCTOR"]


@triton.jit
def _sum(slope, difference, gap):
    vanishing = 2.3e-308 if gap.dtype == tl.float64 else 2.445e-38
    return tl.where(slope > vanishing, slope * difference + gap, gap)


@triton.jit
def _evaluate_both(s, t):
    difference = tl.where(s == t, 0.0, s - t)
    apart = tl.abs(difference)
    power, other_power = negated_power(s), negated_power(t)
    p, q = 1.0 / (1.0 + power), 1.0 / (1.0 + other_power)
    near = tl.maximum(power, other_power) * one_minus_exp(apart)
    powers_apart = tl.where(apart >= 0.35, tl.abs(other_power - power), near)
    gap = powers_apart * tl.minimum(p, q) * tl.maximum(p, q)
    signed_gap = tl.where(s > t, gap, -gap)
    gradient = _sum(power * p * p, difference, signed_gap)
    other = _sum(other_power * q * q, difference, signed_gap)
    return tl.where(gap > 0.0, gap * apart, gap), gradient, -other


@triton.jit
def _evaluate(s, t, parameter, p, SOFT: tl.constexpr):
    value, gradient, _ = _evaluate_both(s, t)
    return value, gradient


FUNCTOR = ElementWise(evaluate=_evaluate, second_logits=True, evaluate_both=_evaluate_both)
