"""Right before fast: outputs against float64, some rows at a time where the whole is too large."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .competitors import Case, Competitor, Problem

__all__ = ["check", "check_gradient", "check_value", "jumps", "truth"]

# (relative, and of the largest gradient) to float64: float32 sums over many labels; one rounding in the others.
_TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (8e-3, 4e-3), torch.float16: (2e-3, 1e-3)}


# margin_bce's gradient jumps where a probability passes the margin: within a rounding of it, either side is right.
_JUMPING = ("margin_bce",)
_AT_A_JUMP = 1e-6  # of the elements, at most
_AT_ONCE = 1 << 26  # elements that are compared in float64 at a time


def _row_chunks(problem: Problem) -> Iterator[slice]:
    rows = max(1, _AT_ONCE // problem.labels)
    return (slice(first, first + rows) for first in range(0, problem.rows, rows))


def truth(case: Case, problem: Problem) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64; the gradient then rounded to float32, by less than any tolerance."""
    value = torch.zeros((), dtype=torch.float64, device=problem.device)
    gradient = torch.empty(problem.source.shape, dtype=torch.float32, device=problem.device)
    for rows in _row_chunks(problem):
        logits = problem.source[rows].double().requires_grad_()
        # The reduction is a mean, so that each row of a part weighs more than one of the whole.
        beside = getattr(problem, case.beside)[rows]
        beside = beside.double() if beside.is_floating_point() else beside
        part = case.reference(logits, beside) * (logits.shape[0] / problem.rows)
        gradient[rows] = torch.autograd.grad(part, logits)[0]
        value += part.detach()
    return value, gradient


def _compare(
    what: str, found: Tensor, expected: Tensor, relative: float, absolute: float, jumps: float | None = None
) -> None:
    found, expected = found.double(), expected.double()
    error = (found - expected).abs()
    # Not `>`: that is False for NaN.
    wrong = ~(error <= expected.abs() * relative + absolute)
    if jumps is not None and int(wrong.sum()) <= 2 + error.numel() * _AT_A_JUMP:
        wrong &= ~(error <= jumps)
    assert not bool(wrong.any()), (
        f"{what}: {int(wrong.sum())} of {error.numel()} differ from float64, by up to {float(error.max()):.3g}"
    )


def check_value(value: Tensor, problem: Problem, expected: Tensor) -> None:
    """Compare a loss with float64.

    Raises:
        AssertionError: it is wrong.
    """
    _compare("value", value.detach(), expected, _TOLERANCES[problem.dtype][0], 0.0)


def check_gradient(
    gradient: Tensor, problem: Problem, expected: Tensor, factor: float = 1.0, jumps: bool = False
) -> None:
    """Compare a gradient, times ``factor``, with float64, some rows at a time.

    ``jumps``: it may have the value on the other side of a jump, in one element of a million or so.

    Raises:
        AssertionError: it is wrong.
    """
    assert gradient.shape == expected.shape, f"gradient: shape {tuple(gradient.shape)}"
    relative, absolute = _TOLERANCES[problem.dtype]
    # Half of the least number above 0 is lost to rounding, which matters in float16.
    least = torch.finfo(problem.dtype).smallest_normal * torch.finfo(problem.dtype).eps
    largest = float(expected.abs().max()) * factor
    jump = (1 + relative) * largest if jumps else None
    for rows in _row_chunks(problem):
        _compare("gradient", gradient[rows], expected[rows] * factor, relative, absolute * largest + least, jump)


def jumps(case: str) -> bool:
    """Whether the gradient does."""
    return case in _JUMPING


def check(case: Case, competitor: Competitor, problem: Problem, expected: tuple[Tensor, Tensor]) -> None:
    """Run once and compare with float64.

    Raises:
        AssertionError: value or gradient is wrong.
    """
    value = competitor.run(problem.fresh(competitor.in_place), problem).detach()
    if competitor.copies:
        assert torch.equal(value, problem.source), "the copy differs"
        return
    check_value(value, problem, expected[0])
    check_gradient(problem.gradient(competitor.in_place), problem, expected[1], jumps=jumps(case.name))
