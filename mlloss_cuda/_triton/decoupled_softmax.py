# mypy: ignore-errors
"""Decoupled softmax, as in csrc/losses/decoupled_softmax.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import Group
from .numerics import exp_difference, logistic, nan_of, sigmoid, two_parts

__all__ = ["FUNCTOR"]

# sums: S of the negatives, sum y in two parts. Second-pass sums: softplus(z) and sigmoid(z) over the positives,
# z = LSE_N - s.
# coefficients: m, the negatives' factor, log S, the positives' factor.


@triton.jit
def _above(s, m):
    """Return s - m, and 0 for equal arguments, infinite ones included."""
    return tl.where(s == m, 0.0, s - m)


@triton.jit
def _of_negative(y, x, SOFT: tl.constexpr):
    """Return (1 - y) x by selection, because 0 * inf would be NaN for a large logit."""
    if SOFT:
        return tl.where(y < 1.0, (1.0 - y) * x, 0.0)
    else:
        return tl.where(y > 0.0, 0.0, x)


@triton.jit
def _with_target(y, x, SOFT: tl.constexpr):
    """Return the sums of one label whose exponential is x."""
    if SOFT:
        upper, lower = two_parts(y)
        return _of_negative(y, x, SOFT), upper, lower
    else:
        return _of_negative(y, x, SOFT), y, tl.zeros_like(y)


@triton.jit
def _maxima(s, y, w, p):
    return (tl.where((y < 1.0) & (s == s), s, float("-inf")),)


@triton.jit
def _sums(s, y, w, m, p, SOFT: tl.constexpr):
    # A logit of -inf adds 0 even if -inf is the maximum, where exp_difference is 1.
    x = tl.where(s == float("-inf"), 0.0, exp_difference(s, m[0]))
    return _with_target(y, x, SOFT)


@triton.jit
def _first_sums(s, y, w, p, SOFT: tl.constexpr):
    return _with_target(y, tl.exp(s), SOFT)


@triton.jit
def _needs_max_shift(sums):
    return (sums[0] > 1.2676506e30) | (sums[0] < 7.8886091e-31)  # 2^100, 2^-100


@triton.jit
def _rescale(sums, old, new):
    return sums[0] * exp_difference(old[0], new[0]), sums[1], sums[2]


@triton.jit
def _second_pass_input(m, sums):
    """Return m and log S, which is -inf without negatives."""
    none = sums[0] == 0.0
    return m[0], tl.where(none, float("-inf"), tl.log(tl.where(none, 1.0, sums[0])))


@triton.jit
def _second_pass_sums(s, y, w, given, p, SOFT: tl.constexpr):
    sigma, _, softplus, _ = logistic(given[1] - _above(s, given[0]))
    share = w * y
    nothing = tl.where(s == s, tl.zeros_like(s), nan_of(s))
    return tl.where(share > 0.0, share * softplus, nothing), tl.where(share > 0.0, share * sigma, nothing)


@triton.jit
def _finalize(m, sums, second_sums, p):
    targets = sums[1] + sums[2]
    empty = (sums[0] == 0.0) | (targets == 0.0)
    nothing = 0.0 * (sums[0] + second_sums[0])  # 0, or NaN if a logit is NaN
    total = tl.where(empty, 1.0, sums[0])
    share = 1.0 / tl.where(targets > 1.0, targets, 1.0)
    c0 = tl.where(empty & (m[0] == float("-inf")), 0.0, m[0])
    c1 = tl.where(empty, nothing, second_sums[1] * share / total)
    value = tl.where(empty, nothing, second_sums[0] * share)
    c3 = tl.where(empty, nothing, tl.where(value == value, share, value))
    return value, (c0, c1, tl.log(total), c3)


@triton.jit
def _scaled(c, factor):
    return c[0], c[1] * factor, c[2], c[3] * factor


@triton.jit
def _gradient(s, y, w, c, p, SOFT: tl.constexpr):
    distance = _above(s, c[0])
    if SOFT:
        negative = _of_negative(y, tl.exp(distance), SOFT) * c[1]
        return negative - tl.where(y > 0.0, w * y * sigmoid(c[2] - distance) * c[3], 0.0)
    else:
        x = tl.exp(tl.where(y > 0.0, distance - c[2], distance))
        return tl.where(y > 0.0, -w * c[3] / (1.0 + x), x * c[1])


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
    sums_count=tl.constexpr(3),
    coefficients=tl.constexpr(4),
    initial=tl.constexpr(float("-inf")),
    softmax_over_labels=True,
    second_pass_input=_second_pass_input,
    second_pass_sums=_second_pass_sums,
    second_pass_count=tl.constexpr(2),
)
