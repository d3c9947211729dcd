# mypy: ignore-errors
"""Soft Dice and, with other parameters, Tversky and Jaccard, as in csrc/losses/dice.h, which explains the formulas."""

import triton
import triton.language as tl

from . import overlap
from .functor import Group
from .numerics import sigmoid
from .overlap import slope_of, sums_of

__all__ = ["FUNCTOR"]


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    return sums_of(sigmoid(s), y, w, p)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    return sums_of(sigmoid(s), y, w, p)


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    # t = e^-|s| gives p (1 - p) = t / (1 + t)^2 for both signs of s; the square of e^-s would overflow.
    t = tl.exp(-tl.abs(s))
    r = 1.0 / (1.0 + t)
    probability = tl.where(s >= 0.0, r, t * r)
    return w * (t * r * r) * slope_of(probability, y, c, p)


FUNCTOR = Group(
    maxima=None,
    sums=_sums,
    first_sums=_first_sums,
    needs_max_shift=None,
    rescale=None,
    finalize=overlap.finalize,
    scaled=overlap.scaled,
    gradient=_gradient,
    maxima_count=tl.constexpr(0),
    sums_count=tl.constexpr(3),
    coefficients=tl.constexpr(2),
    initial=tl.constexpr(0.0),
)
