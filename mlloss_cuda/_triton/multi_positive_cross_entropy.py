# mypy: ignore-errors
"""Multi-positive softmax cross-entropy; the twin of
csrc/losses/multi_positive_cross_entropy.h, where the formulas' reasons are."""

import triton
import triton.language as tl

from .functor import Group
from .numerics import exp_difference

__all__ = ["FUNCTOR"]

# sums: S, k, T; coefficients: m, k / S, 1.


@triton.jit
def _maxima(s, y, w, p):
    return (tl.where(s == s, s, float("-inf")),)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    k = w * y
    # A label that is no target may be infinitely far away.
    target = (k > 0.0) & (s != m[0])
    return exp_difference(s, m[0]), k, tl.where(target, k * (m[0] - s), 0.0)


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    k = w * y
    return tl.exp(s), k, tl.where(k > 0.0, -k * s, 0.0)


@triton.jit
def _unsafe(sums):
    # Where one target has nearly all of the sum, the maximum makes its probability exact. 2^100 and 2^-100.
    mean = sums[2] / tl.where(sums[1] > 0.0, sums[1], 1.0)
    decided = (sums[1] > 0.0) & (sums[0] < 1.00002 * tl.exp(-mean))
    return decided | (sums[0] > 1.2676506e30) | (sums[0] < 7.8886091e-31)


@triton.jit
def _rescale(sums, old, new):
    moves = (sums[1] != 0.0) & (old[0] != new[0])
    moved = tl.where(moves, sums[1] * (new[0] - old[0]), 0.0)
    return sums[0] * exp_difference(old[0], new[0]), sums[1], sums[2] + moved


@triton.jit
def _finalize(m, sums, p):
    empty = sums[1] == 0.0
    nothing = 0.0 * sums[0]  # of a NaN, NaN
    value = tl.where(empty, nothing, sums[2] + sums[1] * tl.log(sums[0]))
    return value, (m[0], tl.where(empty, nothing, sums[1] / sums[0]), tl.full(m[0].shape, 1.0, m[0].dtype))


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
    unsafe=_unsafe,
    rescale=_rescale,
    finalize=_finalize,
    scaled=_scaled,
    gradient=_gradient,
    maxima_count=tl.constexpr(1),
    sums_count=tl.constexpr(3),
    coefficients=tl.constexpr(3),
    initial=tl.constexpr(float("-inf")),
    competing=True,
)
