# mypy: ignore-errors
"""Margin-truncated binary cross-entropy, as in csrc/losses/margin_bce.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import expectation, logistic

__all__ = ["FUNCTOR"]

# p: logit(margin).


@triton.jit
def _undecided(z, p):
    """Return value and gradient in z, which are 0 if z is above the margin; NaN propagates through the products."""
    _, negated, _, softplus_negated = logistic(z)
    step = tl.where(z < p[0], 1.0, tl.where(z == p[0], 0.5, 0.0))
    decided = z > p[0]
    return tl.where(decided, 0.0, step * softplus_negated), tl.where(decided, 0.0, -step * negated)


@triton.jit
def _evaluate(s, y, parameter, p, SOFT: tl.constexpr):
    if SOFT:
        value, gradient = _undecided(-s, p)
        return expectation(y, _undecided(s, p), (value, -gradient))
    else:
        positive = y > 0.0
        value, gradient = _undecided(tl.where(positive, s, -s), p)
        return value, tl.where(positive, gradient, -gradient)


FUNCTOR = ElementWise(evaluate=_evaluate)
