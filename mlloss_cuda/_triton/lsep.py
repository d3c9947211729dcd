# mypy: ignore-errors
"""LSEP; the twin of csrc/losses/lsep.h, where the formulas' reasons are."""

import triton
import triton.language as tl

from . import two_sides
from .functor import Group
from .numerics import exp_difference, log1p
from .two_sides import exponentials, first_exponentials, maxima

__all__ = ["FUNCTOR"]

# sums: the negatives', the positives', how many positives there are.


@triton.jit
def _maxima(s, y, w, p):
    return maxima(s, y, w, p, float("-inf"))


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    negative, positive = exponentials(s, y, m[0], m[1], SOFT)
    # Selected: an excluded label may lie far above a maximum.
    counts = w > 0.0
    one = tl.where(counts & (y > 0.0), tl.full(s.shape, 1.0, s.dtype), 0.0)
    return tl.where(counts, w * negative, 0.0), tl.where(counts, w * positive, 0.0), one


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    negative, positive = first_exponentials(s, y, w, SOFT)
    return negative, positive, tl.where((w > 0.0) & (y > 0.0), tl.full(s.shape, 1.0, s.dtype), 0.0)


@triton.jit
def _first_maxima(sums):
    # A maximum of 0 that no label has would hide another part's positives, which may all lie far above 0.
    none = tl.full(sums[0].shape, float("-inf"), sums[0].dtype)
    return tl.where(sums[0] == 0.0, none, 0.0), tl.where(sums[1] == 0.0, none, 0.0)


@triton.jit
def _unsafe(sums):
    # 2^100 and 2^-100: a maximum mends too small a sum, too; most tiles have no positives at all.
    large = (sums[0] > 1.2676506e30) | (sums[1] > 1.2676506e30)
    return large | (sums[0] < 7.8886091e-31) | ((sums[1] < 7.8886091e-31) & (sums[2] > 0.0))


@triton.jit
def _rescale(sums, old, new):
    return sums[0] * exp_difference(old[0], new[0]), sums[1] * exp_difference(old[1], new[1]), sums[2]


@triton.jit
def _within(m):
    """The maximum of a side without labels."""
    return tl.where(m > float("-inf"), m, 0.0)


@triton.jit
def _finalize(m, sums, p):
    negatives, positives = sums[0], sums[1]
    empty = (negatives == 0.0) | (positives == 0.0)
    apart = tl.where(m[0] == -m[1], 0.0, m[0] + m[1])  # infinite logits of both sides that are equal differ by 0
    pairs = apart + (tl.log(negatives) + tl.log(positives))
    t = tl.exp(-tl.abs(pairs))
    share = 1.0 / (1.0 + t)
    up = pairs >= 0.0
    nothing = 0.0 * (negatives + positives)  # of a NaN, NaN
    value = tl.where(empty, nothing, tl.where(up, pairs, 0.0) + log1p(t))
    r = tl.where(up, share, t * share)
    c0 = tl.where(empty, nothing, r / tl.where(empty, 1.0, negatives))
    c1 = tl.where(empty, nothing, r / tl.where(empty, 1.0, positives))
    return value, (tl.where(empty, _within(m[0]), m[0]), c0, tl.where(empty, _within(m[1]), m[1]), c1)


FUNCTOR = Group(
    maxima=_maxima,
    sums=_sums,
    first_sums=_first_sums,
    unsafe=_unsafe,
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
