# mypy: ignore-errors
"""Binary cross-entropy, as in csrc/losses/bce.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import expectation, logistic, weighed

__all__ = ["FUNCTOR"]

# p: a common factor of the labels' weights of positives.


@triton.jit
def _evaluate(s, y, parameter, p, SOFT: tl.constexpr):
    q = p[0] * parameter
    if SOFT:
        sigmoid, negated, softplus, softplus_negated = logistic(s)
        return expectation(y, (weighed(q, softplus_negated), -q * negated), (softplus, sigmoid))
    else:
        positive = y > 0.0
        sigmoid, _, softplus, _ = logistic(tl.where(positive, -s, s))
        return weighed(tl.where(positive, q, 1.0), softplus), tl.where(positive, -q * sigmoid, sigmoid)


FUNCTOR = ElementWise(evaluate=_evaluate)
