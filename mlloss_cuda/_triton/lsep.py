# mypy: ignore-errors
"""LSEP, as in csrc/losses/lsep.h, which explains the formulas."""

import triton
import triton.language as tl

from . import two_sides
from .functor import Group
from .numerics import exp_difference, log1p
from .two_sides import exponentials, first_exponentials, maxima

__all__ = ["FUNCTOR"]

# sums: exponentials of the negatives, exponentials of the positives, the number of positives.


@triton.jit
def _maxima(s, y, w, p):
    return maxima(s, y, w, p, float("-inf"))


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    negative, positive = exponentials(s, y, m[0], m[1], SOFT)
    # Selected, not multiplied, because an excluded label may lie far above the maximum.
    counts = w > 0.0
    one = tl.where(counts & (y > 0.0), tl.full(s.shape, 1.0, s.dtype), 0.0)
    return tl.where(counts, w * negative, 0.0), tl.where(counts, w * positive, 0.0), one


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    negative, positive = first_exponentials(s, y, w, SOFT)
    return negative, positive, tl.where((w > 0.0) & (y > 0.0), tl.full(s.shape, 1.0, s.dtype), 0.0)


@triton.jit
def _first_maxima(sums):
    # For a side without labels, a maximum of 0 would make the exponentials of another part vanish when they merge.
    none = tl.full(sums[0].shape, float("-inf"), sums[0].dtype)
    return tl.where(sums[0] == 0.0, none, 0.0), tl.where(sums[1] == 0.0, none, 0.0)


@triton.jit
def _needs_max_shift(sums):
    # The bounds are 2^100 and 2^-100. A sum of positives of 0 is valid without positives, as in most tiles.
    large = (sums[0] > 1.2676506e30) | (sums[1] > 1.2676506e30)
    return large | (sums[0] < 7.8886091e-31) | ((sums[1] < 7.8886091e-31) & (sums[2] > 0.0))


@triton.jit
def _rescale(sums, old, new):
    return sums[0] * exp_difference(old[0], new[0]), sums[1] * exp_difference(old[1], new[1]), sums[2]


@triton.jit
def _zero_if_empty(m):
    """Replace the maximum of a side without labels by 0."""
    return tl.where(m > float("-inf"), m, 0.0)


@triton.jit
def _finalize(m, sums, p):
    negatives, positives = sums[0], sums[1]
    empty = (negatives == 0.0) | (positives == 0.0)
    apart = tl.where(m[0] == -m[1], 0.0, m[0] + m[1])  # equal infinite logits of both sides differ by 0
    pairs = apart + (tl.log(negatives) + tl.log(positives))
    t = tl.exp(-tl.abs(pairs))
    share = 1.0 / (1.0 + t)
    up = pairs >= 0.0
    nothing = 0.0 * (negatives + positives)  # 0, or NaN if a logit is NaN
    value = tl.where(empty, nothing, tl.where(up, pairs, 0.0) + log1p(t))
    r = tl.where(up, share, t * share)
    c0 = tl.where(empty, nothing, r / tl.where(empty, 1.0, negatives))
    c1 = tl.where(empty, nothing, r / tl.where(empty, 1.0, positives))
    return value, (tl.where(empty, _zero_if_empty(m[0]), m[0]), c0, tl.where(empty, _zero_if_empty(m[1]), m[1]), c1)


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
    sums_count=tl.constexpr(3),
    coefficients=tl.constexpr(4),
    initial=tl.constexpr(float("-inf")),
    first_maxima=_first_maxima,
)
