# mypy: ignore-errors
"""The logistic function's parts and their like; the twin of csrc/core/numerics.h."""

import triton
import triton.language as tl

__all__ = [
    "at_most",
    "exp_difference",
    "expectation",
    "log1p",
    "logistic",
    "minus_log_over",
    "nan_of",
    "one_minus_exp",
    "sigmoid",
    "two_parts",
    "weighed",
]


@triton.jit
def at_most(x, most):
    """``x``, or ``most`` if that is less; NaN stays."""
    return tl.where(x > most, most, x)


@triton.jit
def nan_of(x):
    """NaN in the shape and dtype of ``x``."""
    return tl.full(x.shape, float("nan"), x.dtype)


@triton.jit
def exp_difference(x, m):
    """exp(x - m), and 1 for equal arguments, infinite ones included."""
    return tl.where(x == m, 1.0, tl.exp(x - m))


@triton.jit
def one_minus_exp(d):
    """1 - exp(-d) for d >= 0: near 0 a series, where the difference is lost."""
    if d.dtype == tl.float64:
        # The error of e^-d is divided out.
        rest = tl.exp(-d)
        exact = (1.0 - rest) * (-d / tl.log(tl.where(rest == 1.0, 0.5, tl.where(rest == 0.0, 0.5, rest))))
        near = tl.where(rest == 1.0, d, exact)
        return tl.where(rest < 0.5, 1.0 - rest, near)
    else:
        p = 1.98412698413e-4 * d - 1.38888888889e-3
        p = p * d + 8.33333333333e-3
        p = p * d - 4.16666666667e-2
        p = p * d + 1.66666666667e-1
        p = p * d - 0.5
        return tl.where(d < 0.35, d * (p * d + 1.0), 1.0 - tl.exp(-d))


@triton.jit
def weighed(factor, cost):
    """factor * cost for a cost >= 0: what weighs nothing costs nothing, were the cost infinite."""
    return tl.where((factor == 0.0) & (cost == float("inf")), 0.0, factor * cost)


@triton.jit
def two_parts(x):
    """A multiple of 2^-12, of which sums up to 4096 are exact in float, and the rest; for 0 <= x < 1024."""
    upper = (x + 3072.0) - 3072.0
    return upper, x - upper


@triton.jit
def log1p(x):
    """log(1 + x) to the last place, for x > -1; inf and NaN included."""
    one = 1.0 + x
    rounded = one - 1.0  # what of x is in `one`
    y = tl.log(one) * (x / tl.where(rounded == 0.0, 1.0, rounded))
    y = tl.where(rounded == 0.0, x, y)
    return tl.where(x == float("inf"), x, y)


@triton.jit
def _two_atanh_over(u2):
    """2 atanh(u) / u for u^2 in [0, 1/9], relative error 4e-9."""
    p = 0.281577783632 * u2 + 0.279651577452
    p = p * u2 + 0.400245952308
    p = p * u2 + 0.666663216414
    return p * u2 + 2.00000000768


@triton.jit
def minus_log_over(u, rest):
    """-log(1 - u) / u for u in [0, 1), from u and ``rest`` = 1 - u: 1 at 0, where the quotient is lost."""
    v = u / (2.0 - u)
    near = _two_atanh_over(v * v) / (2.0 - u)
    if u.dtype == tl.float64:
        near = tl.where(u > 0.0, -log1p(-u) / tl.where(u > 0.0, u, 1.0), 1.0)
    far = -tl.log(rest) / tl.where(u > 0.5, u, 1.0)
    return tl.where(u > 0.5, far, near)


@triton.jit
def expectation(y, positive, negative):
    """Of value and gradient for a probability y. Selected, not multiplied: a certain label has one term."""
    some, certain = y > 0.0, y >= 1.0
    value = tl.where(some, y * positive[0], 0.0) + tl.where(certain, 0.0, (1.0 - y) * negative[0])
    gradient = tl.where(some, y * positive[1], 0.0) + tl.where(certain, 0.0, (1.0 - y) * negative[1])
    return value, gradient


@triton.jit
def sigmoid(z):
    """1 / (1 + e^-z)."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def logistic(z):
    """Of z: sigmoid, sigmoid of -z, log(1 + e^z), log(1 + e^-z); from one exp and, in float, one division."""
    t = tl.exp(-tl.abs(z))
    if z.dtype == tl.float64:
        r = 1.0 / (1.0 + t)
        tail = log1p(t)
    else:
        one = 1.0 + t
        two = 2.0 + t
        inverse = 1.0 / (one * two)
        r = inverse * two
        u = t * inverse * one
        tail = u * _two_atanh_over(u * u)
    tr = t * r
    up = z >= 0.0
    # Not z * 0: an infinite z has a tail of 0, and NaN has to come through.
    above = tl.where(up, z, 0.0)
    below = tl.where(up, 0.0, -z)
    return tl.where(up, r, tr), tl.where(up, tr, r), above + tail, below + tail
