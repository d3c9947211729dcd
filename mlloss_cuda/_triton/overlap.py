# mypy: ignore-errors
"""Losses of the overlap of predicted and true labels, relative to the sizes of both, as in csrc/losses/overlap.h.

p: c; 1 for squares (q = 2); a; b; g; 1 for the logarithm. sums: I, P, Y.
"""

import triton
import triton.language as tl

__all__ = ["finalize", "scaled", "slope_of", "sums_of"]


@triton.jit
def _power(x, p):
    return x * ((1.0 - p[1]) + p[1] * x)


@triton.jit
def sums_of(probability, y, w, p):
    """Return an element's share of the sums."""
    return w * (probability * y), w * _power(probability, p), w * _power(y, p)


@triton.jit
def slope_of(probability, y, c, p):
    """Return d value / d p, without the weight."""
    return y * c[0] + ((1.0 - p[1]) + p[1] * probability) * c[1]


@triton.jit
def finalize(m, sums, p):
    """Return the value, and the coefficients of -I and of P. An empty group without smoothing has a loss of 0."""
    rest = 2.0 - p[2] - p[3]
    numerator = 2.0 * sums[0] + p[0]
    denominator = rest * sums[0] + p[2] * sums[1] + p[3] * sums[2] + p[0]
    empty = denominator == 0.0
    divisor = tl.where(empty, 1.0, denominator)
    lost, score = (denominator - numerator) / divisor, numerator / divisor
    # (1 - score)^g. At a loss of 0 the slope is the limit 0, because p (1 - p) vanishes faster than the power grows.
    linear = p[4] == 1.0
    found = lost <= 0.0
    log_lost = tl.log(tl.where(found, 1.0, lost))
    value = tl.where(linear, lost, tl.where(found, 0.0, tl.exp(p[4] * log_lost)))
    slope = tl.where(linear, 1.0, tl.where(found, 0.0, p[4] * tl.exp((p[4] - 1.0) * log_lost)))
    overlap, size = slope * (2.0 - rest * score), slope * score
    # If nothing overlaps, -log(score) is infinite, and the gradient of the overlap is set to 0.
    logarithmic = p[5] != 0.0
    value = tl.where(logarithmic, -tl.log(score), value)
    whole = 2.0 / tl.where(score == 0.0, 1.0, score) - rest
    overlap = tl.where(logarithmic, tl.where(score == 0.0, 0.0, whole), overlap)
    size = tl.where(logarithmic, 1.0, size)
    # If every target is 0, the first coefficient only multiplies zeros. It is set to 0, because 1 / denominator may
    # overflow, and 0 * inf is NaN.
    nothing_true = (sums[0] == 0.0) & (sums[2] == 0.0)
    c0 = tl.where(nothing_true, 0.0, -overlap / divisor)
    c1 = (1.0 + p[1]) * (p[2] * size) / divisor
    return tl.where(empty, 0.0, value), (tl.where(empty, 0.0, c0), tl.where(empty, 0.0, c1))


@triton.jit
def scaled(c, factor):
    """Return the coefficients times factor."""
    return c[0] * factor, c[1] * factor
