# mypy: ignore-errors
"""Multi-positive softmax cross-entropy, as in csrc/losses/multi_positive_cross_entropy.h (which explains it)."""

import triton
import triton.language as tl

from .functor import Group
from .numerics import exp_difference, two_parts

__all__ = ["FUNCTOR"]

# sums: S, the upper part of k, T, the lower part of k; coefficients: m, k / S, 1.


@triton.jit
def _maxima(s, y, w, p):
    return (tl.where(s == s, s, float("-inf")),)


@triton.jit
def _parts(k, SOFT: tl.constexpr):
    if SOFT:
        return two_parts(k)
    else:
        return k, tl.zeros_like(k)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    k = w * y
    # Only positives are multiplied, because m - s may be infinite for other labels.
    target = (k > 0.0) & (s != m[0])
    # An excluded label adds 0 even if all others are at -inf too, where exp_difference is 1.
    excluded = (s == float("-inf")) & (w == 0.0)
    upper, lower = _parts(k, SOFT)
    return tl.where(excluded, 0.0, exp_difference(s, m[0])), upper, tl.where(target, k * (m[0] - s), 0.0), lower


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    k = w * y
    upper, lower = _parts(k, SOFT)
    return tl.exp(s), upper, tl.where(k > 0.0, -k * s, 0.0), lower


@triton.jit
def _needs_max_shift(sums):
    # If one target has nearly all of the sum, its maximum makes its probability exact. The bounds are 2^100 and 2^-100.
    k = sums[1] + sums[3]
    mean = sums[2] / tl.where(k > 0.0, k, 1.0)
    decided = (k > 0.0) & (sums[0] < 1.00002 * tl.exp(-mean))
    return decided | (sums[0] > 1.2676506e30) | (sums[0] < 7.8886091e-31)


@triton.jit
def _rescale(sums, old, new):
    k = sums[1] + sums[3]
    moves = (k != 0.0) & (old[0] != new[0])
    moved = tl.where(moves, k * (new[0] - old[0]), 0.0)
    return sums[0] * exp_difference(old[0], new[0]), sums[1], sums[2] + moved, sums[3]


@triton.jit
def _finalize(m, sums, p):
    k = sums[1] + sums[3]
    empty = k == 0.0
    nothing = 0.0 * sums[0]  # 0, or NaN if a logit is NaN
    value = tl.where(empty, nothing, sums[2] + k * tl.log(sums[0]))
    return value, (m[0], tl.where(empty, nothing, k / sums[0]), tl.full(m[0].shape, 1.0, m[0].dtype))


@triton.jit
def _scaled(c, factor):
    return c[0], c[1] * factor, c[2] * factor


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    return exp_difference(s, c[0]) * c[1] - w * y * c[2]


FUNCTOR = Group(
    maxima=_maxima,
    sums=_sums,
    first_sums=_first_sums,
    needs_max_shift=_needs_max_shift,
    rescale=_rescale,
    finalize=_finalize,
    scaled=_scaled,
    gradient=_gradient,
    maxima_count=tl.constexpr(1),
    sums_count=tl.constexpr(4),
    coefficients=tl.constexpr(3),
    initial=tl.constexpr(float("-inf")),
    softmax_over_labels=True,
)
