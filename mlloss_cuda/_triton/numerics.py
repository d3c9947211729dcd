# mypy: ignore-errors
"""Numerics of the logistic function and of powers, as in csrc/core/numerics.h."""

import triton
import triton.language as tl

__all__ = [
    "at_most",
    "exp_difference",
    "expectation",
    "is_whole",
    "log1p",
    "logistic",
    "minus_log_of",
    "minus_log_over",
    "nan_of",
    "negated_power",
    "one_minus_exp",
    "raised",
    "sigmoid",
    "sigmoids",
    "two_parts",
    "weighed",
]


@triton.jit
def at_most(x, most):
    """Return the smaller of ``x`` and ``most``; NaN stays NaN."""
    return tl.where(x > most, most, x)


@triton.jit
def nan_of(x):
    """Return NaN in the shape and dtype of ``x``."""
    return tl.full(x.shape, float("nan"), x.dtype)


@triton.jit
def exp_difference(x, m):
    """Return exp(x - m), and 1 for equal arguments, infinite ones included."""
    return tl.where(x == m, 1.0, tl.exp(x - m))


@triton.jit
def one_minus_exp(d):
    """Return 1 - exp(-d) for d in [0, 0.35) by a polynomial, because the difference would cancel."""
    if d.dtype == tl.float64:
        # The division cancels the rounding error of e^-d.
        rest = tl.exp(-d)
        exact = (1.0 - rest) * (-d / tl.log(tl.where(rest == 1.0, 0.5, tl.where(rest == 0.0, 0.5, rest))))
        return tl.where(rest == 1.0, d, exact)
    else:
        p = 7.231935571663e-3 * d - 4.134865101495e-2
        p = p * d + 1.666298692782e-1
        p = p * d - 4.999986625607e-1
        return d * (p * d + 1.0)


@triton.jit
def weighed(factor, cost):
    """Return factor * cost for a cost >= 0; it is 0 for a factor of 0 and an infinite cost."""
    return tl.where((factor == 0.0) & (cost == float("inf")), 0.0, factor * cost)


@triton.jit
def two_parts(x):
    """Split 0 <= x < 1024 into a multiple of 2^-12, whose sums up to 4096 are exact in float, and the rest."""
    upper = (x + 3072.0) - 3072.0
    return upper, x - upper


@triton.jit
def log1p(x):
    """Return log(1 + x) to the last place, for x > -1; inf and NaN included."""
    one = 1.0 + x
    rounded = one - 1.0  # the part of x that `one` contains
    y = tl.log(one) * (x / tl.where(rounded == 0.0, 1.0, rounded))
    y = tl.where(rounded == 0.0, x, y)
    return tl.where(x == float("inf"), x, y)


@triton.jit
def _two_atanh_over(u2):
    """Return 2 atanh(u) / u for u^2 in [0, 1/9], with a relative error of 4e-9."""
    p = 0.281577783632 * u2 + 0.279651577452
    p = p * u2 + 0.400245952308
    p = p * u2 + 0.666663216414
    return p * u2 + 2.00000000768


@triton.jit
def minus_log_of(u, rest):
    """Return -log(1 - u) for u in [0, 1], from u and ``rest`` = 1 - u; finite for a rest of 0."""
    if u.dtype == tl.float64:
        near = -log1p(-tl.where(u > 0.5, 0.5, u))
        far = -tl.log(tl.where(rest < 2.3e-308, 2.3e-308, rest))
    else:
        u2 = u * u
        low = (0.269612759 * u + 0.242805079) * u2 + (0.333700627 * u + 0.499992847)
        high = (1.44110799 * u - 1.69581211) * u2 + (1.25766981 * u - 0.203538984)
        near = (high * (u2 * u2) + low) * u2 + u
        far = -tl.log(tl.where(rest < 1.2e-38, 1.2e-38, rest))
    return tl.where(u > 0.5, far, near)


@triton.jit
def is_whole(n):
    """Return whether n is a whole number up to 4, so that x^n is computed as a product."""
    return (n == 0.0) | (n == 1.0) | (n == 2.0) | (n == 3.0) | (n == 4.0)


@triton.jit
def raised(x, minus_log, n):
    """Return x^n and x^(n-1) for a parameter n, as products if ``is_whole(n)``, else from -log(x).

    x^(n-1) is arbitrary for n = 0, and 0 if n is not whole.
    """
    if is_whole(n):
        lower = tl.where((n == 2.0) | (n == 4.0), x, 1.0) * tl.where(n > 2.0, x * x, 1.0)
        power = tl.where(n == 0.0, 1.0, lower * x)
    else:
        lower = tl.zeros_like(x)
        power = tl.exp(-n * at_most(minus_log, 1e30))
    return power, lower


@triton.jit
def minus_log_over(u, rest):
    """Return -log(1 - u) / u for u in [0, 1), from u and ``rest`` = 1 - u; it is 1 at 0."""
    v = u / (2.0 - u)
    near = _two_atanh_over(v * v) / (2.0 - u)
    if u.dtype == tl.float64:
        near = tl.where(u > 0.0, -log1p(-u) / tl.where(u > 0.0, u, 1.0), 1.0)
    far = -tl.log(rest) / tl.where(u > 0.5, u, 1.0)
    return tl.where(u > 0.5, far, near)


@triton.jit
def expectation(y, positive, negative):
    """Return the expectation of value and gradient for a target y, which is the probability of a positive.

    Terms of probability 0 are dropped by selection, because 0 * inf is NaN.
    """
    some, certain = y > 0.0, y >= 1.0
    value = tl.where(some, y * positive[0], 0.0) + tl.where(certain, 0.0, (1.0 - y) * negative[0])
    gradient = tl.where(some, y * positive[1], 0.0) + tl.where(certain, 0.0, (1.0 - y) * negative[1])
    return value, gradient


@triton.jit
def sigmoid(z):
    """Return 1 / (1 + e^-z)."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def sigmoids(z):
    """Return sigmoid(z) and sigmoid(-z), the smaller one to full relative precision."""
    tail = tl.exp(-tl.abs(z))
    r = 1.0 / (1.0 + tail)
    rest = tail * r
    up = z >= 0.0
    return tl.where(up, r, rest), tl.where(up, rest, r)


@triton.jit
def negated_power(z):
    """Return exp(-z), at most e^87 in float."""
    most = 709.0 if z.dtype == tl.float64 else 87.0
    return tl.exp(at_most(-z, most))


@triton.jit
def logistic(z):
    """Return sigmoid(z), sigmoid(-z), log(1 + e^z), log(1 + e^-z), from one exp and, in float, one division."""
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
    # Not z * 0, which is NaN for an infinite z; a NaN propagates through the tail.
    above = tl.where(up, z, 0.0)
    below = tl.where(up, 0.0, -z)
    return tl.where(up, r, tr), tl.where(up, tr, r), above + tail, below + tail
