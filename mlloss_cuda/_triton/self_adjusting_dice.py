# mypy: ignore-errors
"""Self-adjusting Dice, as in csrc/losses/self_adjusting_dice.h, which explains the formulas."""

import triton
import triton.language as tl

from . import overlap
from .functor import Group
from .numerics import logistic
from .overlap import slope_of, sums_of

__all__ = ["FUNCTOR"]

# p: the parameters of overlap.py, then f > 0.


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    sigmoid, _, softplus, _ = logistic(s)
    return sums_of(sigmoid * tl.exp(-p[6] * softplus), y, w, p)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    return _first_sums(s, y, w, p, SOFT)


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    sigmoid, negated, softplus, _ = logistic(s)
    adjusted = sigmoid * tl.exp(-p[6] * softplus)
    return w * (adjusted * (negated - p[6] * sigmoid)) * slope_of(adjusted, y, c, p)


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
