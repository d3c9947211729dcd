# mypy: ignore-errors
"""ZLPR; the twin of csrc/losses/zlpr.h, where the formulas' reasons are."""

import triton
import triton.language as tl

from .functor import Group
from .numerics import exp_difference, log1p, nan_of

__all__ = ["FUNCTOR"]


@triton.jit
def _maxima(s, y, w, p):
    negative = (y < 1.0) & (w > 0.0) & (s > 0.0)
    positive = (y > 0.0) & (w > 0.0) & (s < 0.0)
    return tl.where(negative, s, 0.0), tl.where(positive, -s, 0.0)


@triton.jit
def _exponentials(s, y, m0, m1, SOFT: tl.constexpr):
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
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    negative, positive = _exponentials(s, y, m[0], m[1], SOFT)
    return w * negative, w * positive


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    if SOFT:
        zero = tl.zeros_like(s)
        return _sums(s, y, w, (zero, zero), p, SOFT)
    else:
        x = w * tl.exp(tl.where(y > 0.0, -s, s))
        return tl.where(y > 0.0, 0.0, x), tl.where(y > 0.0, x, 0.0)


@triton.jit
def _unsafe(sums):
    # 2^100; NaN is not unsafe: no maximum would mend it.
    return (sums[0] > 1.2676506e30) | (sums[1] > 1.2676506e30)


@triton.jit
def _rescale(sums, old, new):
    return sums[0] * exp_difference(old[0], new[0]), sums[1] * exp_difference(old[1], new[1])


@triton.jit
def _side(m, total):
    """log(e^m (sum + e^-m)), and 1 / (sum + e^-m); log1p keeps losses far below the rounding of 1."""
    less_one = tl.where(m == 0.0, 0.0, tl.exp(-m) - 1.0)
    return m + log1p(total + less_one), 1.0 / (total + tl.exp(-m))


@triton.jit
def _finalize(m, sums, p):
    negative, c0 = _side(m[0], sums[0])
    positive, c1 = _side(m[1], sums[1])
    return negative + positive, (m[0], c0, m[1], c1)


@triton.jit
def _scaled(c, factor):
    return c[0], c[1] * factor, c[2], c[3] * factor


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    negative, positive = _exponentials(s, y, c[0], c[2], SOFT)
    if SOFT:
        return w * (negative * c[1] - positive * c[3])
    else:
        return w * tl.where(y > 0.0, positive * -c[3], negative * c[1])


FUNCTOR = Group(
    maxima=_maxima,
    sums=_sums,
    first_sums=_first_sums,
    unsafe=_unsafe,
    rescale=_rescale,
    finalize=_finalize,
    scaled=_scaled,
    gradient=_gradient,
    maxima_count=tl.constexpr(2),
    sums_count=tl.constexpr(2),
    coefficients=tl.constexpr(4),
    initial=tl.constexpr(0.0),
)
