# mypy: ignore-errors
"""ZLPR, as in csrc/losses/zlpr.h, which explains the formulas."""

import triton
import triton.language as tl

from . import two_sides
from .functor import Group
from .numerics import exp_difference, log1p
from .two_sides import exponentials, first_exponentials, maxima

__all__ = ["FUNCTOR"]


@triton.jit
def _maxima(s, y, w, p):
    return maxima(s, y, w, p, 0.0)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    negative, positive = exponentials(s, y, m[0], m[1], SOFT)
    return w * negative, w * positive


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    return first_exponentials(s, y, w, SOFT)


@triton.jit
def _needs_max_shift(sums):
    # The bound is 2^100. A NaN stays as it is, because a shift would not change it.
    return (sums[0] > 1.2676506e30) | (sums[1] > 1.2676506e30)


@triton.jit
def _rescale(sums, old, new):
    return sums[0] * exp_difference(old[0], new[0]), sums[1] * exp_difference(old[1], new[1])


@triton.jit
def _side(m, total):
    """Return log(1 + e^m total) and 1 / (total + e^-m), or zeros for a total of 0."""
    # A part of m stays before the logarithm, because e^m may overflow. log1p keeps losses far below the rounding of 1,
    # and totals that tiny weights make far smaller than e^-m.
    nothing = total == 0.0
    inside = tl.where(m > 64.0, 64.0, m)
    before, power = m - inside, tl.exp(inside)
    terms = tl.where(nothing, 0.0, total * power + (tl.exp(-before) - 1.0))
    return tl.where(nothing, 0.0, before + log1p(terms)), tl.where(nothing, 0.0, power / (1.0 + terms))


@triton.jit
def _finalize(m, sums, p):
    negative, c0 = _side(m[0], sums[0])
    positive, c1 = _side(m[1], sums[1])
    value = negative + positive
    # A NaN on one side makes the whole row NaN, including the other side's gradient.
    c0, c1 = tl.where(value == value, c0, value), tl.where(value == value, c1, value)
    return value, (m[0], c0, m[1], c1)


FUNCTOR = Group(
    maxima=_maxima,
    sums=_sums,
    first_sums=_first_sums,
    needs_max_shift=_needs_max_shift,
    rescale=_rescale,
    finalize=_finalize,
    scaled=two_sides.scaled,
    gradient=two_sides.gradient,
    maxima_count=tl.constexpr(2),
    sums_count=tl.constexpr(2),
    coefficients=tl.constexpr(4),
    initial=tl.constexpr(0.0),
)
