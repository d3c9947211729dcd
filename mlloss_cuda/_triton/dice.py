# mypy: ignore-errors
"""Soft Dice; the twin of csrc/losses/dice.h, where the formulas' reasons are."""

import triton
import triton.language as tl

from .functor import Group
from .numerics import sigmoid

__all__ = ["FUNCTOR"]

# p: smooth; 1 for squared denominators. sums: p y, p^q, y^q.


@triton.jit
def _power(x, p):
    return x * ((1.0 - p[1]) + p[1] * x)


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    probability = sigmoid(s)
    return w * (probability * y), w * _power(probability, p), w * _power(y, p)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    return _first_sums(s, y, w, p, SOFT)


@triton.jit
def _finalize(m, sums, p):
    numerator = 2.0 * sums[0] + p[0]
    denominator = sums[1] + sums[2] + p[0]
    # An empty group without smoothing: nothing to find, nothing found.
    empty = denominator == 0.0
    inverse = tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, denominator))
    value = (denominator - numerator) * inverse
    return value, (-2.0 * inverse, (1.0 + p[1]) * (numerator * inverse) * inverse)


@triton.jit
def _scaled(c, factor):
    return c[0] * factor, c[1] * factor


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    # t and not e^-s, whose square overflows: p (1 - p) = t / (1 + t)^2 for either sign of s.
    t = tl.exp(-tl.abs(s))
    r = 1.0 / (1.0 + t)
    probability = tl.where(s >= 0.0, r, t * r)
    return w * (t * r * r) * (y * c[0] + ((1.0 - p[1]) + p[1] * probability) * c[1])


FUNCTOR = Group(
    maxima=None,
    sums=_sums,
    first_sums=_first_sums,
    unsafe=None,
    rescale=None,
    finalize=_finalize,
    scaled=_scaled,
    gradient=_gradient,
    maxima_count=tl.constexpr(0),
    sums_count=tl.constexpr(3),
    coefficients=tl.constexpr(2),
    initial=tl.constexpr(0.0),
)
