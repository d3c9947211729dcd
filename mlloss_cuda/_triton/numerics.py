# mypy: ignore-errors
"""The logistic function's parts and their like; the twin of csrc/core/numerics.h."""

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
    "one_minus_exp",
    "raised",
    "sigmoid",
    "sigmoids",
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
    """1 - exp(-d) for d in [0, 0.35): a series, where the difference would cancel."""
    if d.dtype == tl.float64:
        # The error of e^-d is divided out.
        rest = tl.exp(-d)
        exact = (1.0 - rest) * (-d / tl.log(tl.where(rest == 1.0, 0.5, tl.where(rest == 0.0, 0.5, rest))))
        return tl.where(rest == 1.0, d, exact)
    else:
        p = 1.98412698413e-4 * d - 1.38888888889e-3
        p = p * d + 8.33333333333e-3
        p = p * d - 4.16666666667e-2
        p = p * d + 1.66666666667e-1
        p = p * d - 0.5
        return d * (p * d + 1.0)


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
def minus_log_of(u, rest):
    """-log(1 - u) for u in [0, 1], from u and ``rest`` = 1 - u; finite where the rest is 0."""
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
    """Whether a power of n is a product."""
    return (n == 0.0) | (n == 1.0) | (n == 2.0) | (n == 3.0) | (n == 4.0)


@triton.jit
def raised(x, minus_log, n):
    """x^n and x^(n-1), for a number n of the call, from x or from -log(x): products where n is whole and 4 at most.

    For n = 0 the latter is any number; for an n that is not whole it is 0, and of no use.
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
def sigmoids(z):
    """Return sigmoid(z) and sigmoid(-z), the smaller to its own precision."""
    tail = tl.exp(-tl.abs(z))
    r = 1.0 / (1.0 + tail)
    rest = tail * r
    up = z >= 0.0
    return tl.where(up, r, rest), tl.where(up, rest, r)


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
