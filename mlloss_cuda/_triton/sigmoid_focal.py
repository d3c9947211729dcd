# mypy: ignore-errors
"""Sigmoid focal loss, as in csrc/losses/focal.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import at_most, logistic, raised, weighed

__all__ = ["FUNCTOR"]

# p: gamma; the weights alpha_t of a negative and of a positive.


@triton.jit
def _hard(s, y, p):
    positive = y > 0.0
    alpha = tl.where(positive, p[2], p[1])
    sigmoid, negated, softplus, softplus_negated = logistic(tl.where(positive, s, -s))
    power, _ = raised(negated, softplus, p[0])
    modulation = alpha * power
    slope = modulation * (p[0] * sigmoid * at_most(softplus_negated, 1e30) + negated)
    return weighed(modulation, softplus_negated), tl.where(positive, -slope, slope)


@triton.jit
def _soft(s, y, p):
    sigmoid, negated, softplus, softplus_negated = logistic(s)
    alpha = p[2] * y + p[1] * (1.0 - y)
    some, whole = y > 0.0, y >= 1.0
    # A label that is exactly 0 or 1 has one term; the other would be 0 * inf at an infinite logit.
    ce = tl.where(whole, 0.0, (1.0 - y) * softplus) + tl.where(some, y * softplus_negated, 0.0)
    miss = sigmoid * (1.0 - y) + negated * y
    inner = tl.log(tl.where(some & (y < 1.0), miss, 1.0))
    log_miss = tl.where(some, tl.where(whole, -softplus, inner), -softplus_negated)
    power, _ = raised(miss, -log_miss, p[0])
    modulation = alpha * power
    # p q / miss, without 0 / 0 at hard labels.
    between = sigmoid * negated / tl.where(miss == 0.0, 1.0, miss)
    ratio = tl.where(some, tl.where(whole, sigmoid, between), negated)
    slope = (sigmoid - y) + p[0] * (1.0 - 2.0 * y) * ratio * at_most(ce, 1e30)
    exact = tl.where(whole, -negated - p[0] * sigmoid * at_most(ce, 1e30), slope)
    return weighed(modulation, ce), modulation * exact


@triton.jit
def _evaluate(s, y, parameter, p, SOFT: tl.constexpr):
    if SOFT:
        return _soft(s, y, p)
    else:
        return _hard(s, y, p)


FUNCTOR = ElementWise(evaluate=_evaluate)
