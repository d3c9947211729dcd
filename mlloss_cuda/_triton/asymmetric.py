# mypy: ignore-errors
"""Asymmetric loss, as in csrc/losses/asymmetric.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import at_most, expectation, is_whole, logistic, minus_log_of, minus_log_over, raised, sigmoids

__all__ = ["FUNCTOR"]

# p: gamma of negatives, gamma of positives, the clip m, 1 if the gradient treats the powers as constants, logit(m).


@triton.jit
def _of_positive(parts, p):
    sigmoid, negated, softplus, softplus_negated = parts
    modulation = tl.exp(-p[1] * at_most(softplus, 1e30))
    focus = (1.0 - p[3]) * p[1] * sigmoid * at_most(softplus_negated, 1e30)
    return modulation * softplus_negated, -modulation * (focus + negated)


@triton.jit
def _of_negative(s, parts, p):
    sigmoid, negated, softplus, softplus_negated = parts
    clip = p[2]
    clipped = clip > 0.0
    rest = negated + clip
    u = tl.where(sigmoid > clip, sigmoid - clip, 0.0)
    ratio = minus_log_over(u, rest)
    cost = tl.where(clipped, u * ratio, softplus)
    # If there is no clip, u is the sigmoid, and -softplus(-s) is its exact logarithm even if it rounds to 0.
    minus_log = tl.where(clipped, -tl.log(u), softplus_negated)
    modulation = tl.exp(-p[0] * at_most(minus_log, 1e30))
    share = tl.where(clipped, sigmoid * negated / rest, sigmoid)
    focus = tl.where(clipped, sigmoid * negated * ratio, negated * at_most(softplus, 1e30))
    slope = share + (1.0 - p[3]) * p[0] * focus
    # A negative below the clip has a loss of 0, but a NaN stays NaN.
    nothing = tl.where(s == s, 0.0, s)
    counts = s > p[4]
    return tl.where(counts, modulation * cost, nothing), tl.where(counts, modulation * slope, nothing)


@triton.jit
def _by_products(s, positive, p):
    sigmoid, negated = sigmoids(s)
    clip = p[2]
    above = tl.where(sigmoid > clip, sigmoid - clip, tl.where(s == s, 0.0, s))
    v = tl.where(positive, negated, above)
    rest = tl.where(positive, sigmoid, negated + clip)
    logarithm = minus_log_of(v, rest)
    lost = tl.where(positive, -s, s)
    # If there is no clip, the cost of a large negative is its logit.
    far = tl.where(positive, 80.0, tl.where(clip > 0.0, float("inf"), 80.0))
    cost = tl.where(lost > far, lost, logarithm)
    power_of_positive, lower_of_positive = raised(v, v, p[1])
    power_of_negative, lower_of_negative = raised(v, v, p[0])
    power = tl.where(positive, power_of_positive, power_of_negative)
    focus = (1.0 - p[3]) * tl.where(positive, p[1] * lower_of_positive, p[0] * lower_of_negative)
    both = sigmoid * negated
    share = tl.where(positive, negated, tl.where(clip > 0.0, both / tl.where(rest > 0.0, rest, 1.0), sigmoid))
    slope = power * share + focus * (both * logarithm)
    # A negative below the clip has a loss of 0, but a NaN stays NaN.
    nothing = tl.where(s == s, 0.0, s)
    counts = positive | (s > p[4])
    return tl.where(counts, power * cost, nothing), tl.where(counts, tl.where(positive, -slope, slope), nothing)


@triton.jit
def _by_powers(s, y, p, SOFT: tl.constexpr):
    parts = logistic(s)
    positive = _of_positive(parts, p)
    negative = _of_negative(s, parts, p)
    if SOFT:
        return expectation(y, positive, negative)
    else:
        return tl.where(y > 0.0, positive[0], negative[0]), tl.where(y > 0.0, positive[1], negative[1])


@triton.jit
def _evaluate(s, y, parameter, p, SOFT: tl.constexpr):
    if is_whole(p[0]) & is_whole(p[1]):
        if SOFT:
            positive = _by_products(s, y >= 0.0, p)
            negative = _by_products(s, y < 0.0, p)
            value, gradient = expectation(y, positive, negative)
        else:
            value, gradient = _by_products(s, y > 0.0, p)
    else:
        value, gradient = _by_powers(s, y, p, SOFT)
    return value, gradient


FUNCTOR = ElementWise(evaluate=_evaluate)
