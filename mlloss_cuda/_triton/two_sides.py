# mypy: ignore-errors
"""What losses with a log-sum-exp over the negatives' s and one over the positives' -s share; the twin of
csrc/losses/two_sides.h. Of each pair, [0] is the negatives', [1] the positives'."""

import triton
import triton.language as tl

from .numerics import exp_difference, nan_of

__all__ = ["exponentials", "first_exponentials", "gradient", "maxima", "scaled"]


@triton.jit
def maxima(s, y, w, p, initial: tl.constexpr):
    """Each element's part in its side's maximum; ``initial`` in the other's."""
    negative = (y < 1.0) & (w > 0.0) & (s > initial)
    positive = (y > 0.0) & (w > 0.0) & (-s > initial)
    return tl.where(negative, s, initial), tl.where(positive, -s, initial)


@triton.jit
def exponentials(s, y, m0, m1, SOFT: tl.constexpr):
    """(1-y) e^(s-m0) and y e^(-s-m1). A hard label belongs to one side: one exponential."""
    if SOFT:
        negative = (1.0 - y) * exp_difference(s, m0)
        positive = y * exp_difference(-s, m1)
        # Selected, not multiplied: 0 * inf is NaN for a confident logit.
        nothing = tl.where(s == s, tl.zeros_like(s), nan_of(s))
        return tl.where(y < 1.0, negative, nothing), tl.where(y > 0.0, positive, 0.0)
    else:
        x = exp_difference(tl.where(y > 0.0, -s, s), tl.where(y > 0.0, m1, m0))
        return tl.where(y > 0.0, 0.0, x), tl.where(y > 0.0, x, 0.0)


@triton.jit
def first_exponentials(s, y, w, SOFT: tl.constexpr):
    """The same times the weight, with both m at 0."""
    if SOFT:
        zero = tl.zeros_like(s)
        negative, positive = exponentials(s, y, zero, zero, SOFT)
        return w * negative, w * positive
    else:
        x = w * tl.exp(tl.where(y > 0.0, -s, s))
        return tl.where(y > 0.0, 0.0, x), tl.where(y > 0.0, x, 0.0)


@triton.jit
def scaled(c, factor):
    """Coefficients times factor."""
    return c[0], c[1] * factor, c[2], c[3] * factor


@triton.jit
def gradient(s, y, w, c, p, SOFT: tl.constexpr):
    """From m and the factor of each side."""
    negative, positive = exponentials(s, y, c[0], c[2], SOFT)
    if SOFT:
        return w * (negative * c[1] - positive * c[3])
    else:
        return w * tl.where(y > 0.0, positive * -c[3], negative * c[1])
