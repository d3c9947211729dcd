# mypy: ignore-errors
"""Squared hinge, as in csrc/losses/squared_hinge.h, which explains the formulas."""

import triton
import triton.language as tl

from .functor import ElementWise
from .numerics import expectation

__all__ = ["FUNCTOR"]


@triton.jit
def _lack(z):
    """Return the distance of z below the margin of 1, else 0; NaN stays NaN."""
    return tl.where(z > 1.0, 0.0, 1.0 - z)


@triton.jit
def _evaluate(s, y, parameter, p, SOFT: tl.constexpr):
    up, down = _lack(s), _lack(-s)
    if SOFT:
        return expectation(y, (up * up, -2.0 * up), (down * down, 2.0 * down))
    else:
        lacking = tl.where(y > 0.0, up, down)
        return lacking * lacking, 2.0 * tl.where(y > 0.0, -lacking, lacking)


FUNCTOR = ElementWise(evaluate=_evaluate)
