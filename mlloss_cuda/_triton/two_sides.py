# mypy: ignore-errors
"""Functions for losses with a log-sum-exp over the negatives' s and one over the positives' -s.

They are those of csrc/losses/two_sides.h. In each pair, [0] is of the negatives and [1] of the positives.
"""

import triton
import triton.language as tl

from .numerics import exp_difference, nan_of

__all__ = ["exponentials", "first_exponentials", "gradient", "maxima", "scaled"]


@triton.jit
def maxima(s, y, w, p, initial: tl.constexpr):
    """Return each element's candidate for its side's maximum, and ``initial`` for the other's."""
    negative = (y < 1.0) & (w > 0.0) & (s > initial)
    positive = (y > 0.0) & (w > 0.0) & (-s > initial)
    return tl.where(negative, s, initial), tl.where(positive, -s, initial)


@triton.jit
def exponentials(s, y, m0, m1, SOFT: tl.constexpr):
    """Return (1-y) e^(s-m0) and y e^(-s-m1). A hard label belongs to one side and needs one exponential."""
    if SOFT:
        negative = (1.0 - y) * exp_difference(s, m0)
        positive = y * exp_difference(-s, m1)
        # Selected, not multiplied, because 0 * inf would be NaN for a large logit.
        nothing = tl.where(s == s, tl.zeros_like(s), nan_of(s))
        return tl.where(y < 1.0, negative, nothing), tl.where(y > 0.0, positive, 0.0)
    else:
        x = exp_difference(tl.where(y > 0.0, -s, s), tl.where(y > 0.0, m1, m0))
        return tl.where(y > 0.0, 0.0, x), tl.where(y > 0.0, x, 0.0)


@triton.jit
def first_exponentials(s, y, w, SOFT: tl.constexpr):
    """Return the exponentials with both m at 0, times the weight."""
    if SOFT:
        zero = tl.zeros_like(s)
        negative, positive = exponentials(s, y, zero, zero, SOFT)
        return w * negative, w * positive
    else:
        x = w * tl.exp(tl.where(y > 0.0, -s, s))
        return tl.where(y > 0.0, 0.0, x), tl.where(y > 0.0, x, 0.0)


@triton.jit
def scaled(c, factor):
    """Return the coefficients times factor."""
    return c[0], c[1] * factor, c[2], c[3] * factor


@triton.jit
def gradient(s, y, w, c, p, SOFT: tl.constexpr):
    """Return the gradient from m and the factor of each side."""
    negative, positive = exponentials(s, y, c[0], c[2], SOFT)
    if SOFT:
        return w * (negative * c[1] - positive * c[3])
    else:
        return w * tl.where(y > 0.0, positive * -c[3], negative * c[1])
