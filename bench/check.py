"""Check outputs against float64 before anything is timed, some rows at a time if the whole is too large."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .implementations import Case, Implementation, Problem

__all__ = ["check", "check_gradient", "check_value", "jumps", "truth"]

# Tolerances to float64, relative and as a share of the largest gradient: float32 sums over many labels, the other
# dtypes are rounded once.
_TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (8e-3, 4e-3), torch.float16: (2e-3, 1e-3)}

# margin_bce's gradient jumps where a probability passes the margin: within a rounding of it, either side is right.
_JUMPING = ("margin_bce",)
_AT_A_JUMP = 1e-6  # the largest share of elements that may be on the other side of a jump
_AT_ONCE = 1 << 26  # the number of elements that are compared in float64 at a time


def _row_chunks(problem: Problem) -> Iterator[slice]:
    rows = max(1, _AT_ONCE // problem.labels)
    return (slice(first, first + rows) for first in range(0, problem.rows, rows))


def truth(case: Case, problem: Problem) -> tuple[Tensor, ...]:
    """Compute value and gradient in float64, and the gradient of the other logits if the case has them.

    Gradients are kept in float32, which rounds by less than a tolerance.
    """
    value = torch.zeros((), dtype=torch.float64, device=problem.device)
    shape, device = problem.source.shape, problem.device
    gradients = [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(case.gradients)]
    for rows in _row_chunks(problem):
        logits = problem.source[rows].double().requires_grad_()
        # The reduction is a mean: a part's mean counts by its share of the rows.
        second = getattr(problem, case.second_argument)[rows].detach()
        second = second.double() if second.is_floating_point() else second
        inputs = (logits,) if case.takes_targets else (logits, second.requires_grad_())
        part = case.reference(logits, second) * (logits.shape[0] / problem.rows)
        for gradient, own in zip(gradients, torch.autograd.grad(part, inputs), strict=True):
            gradient[rows] = own
        value += part.detach()
    return value, *gradients


def _compare(
    what: str, found: Tensor, expected: Tensor, relative: float, absolute: float, jumps: float | None = None
) -> None:
    found, expected = found.double(), expected.double()
    error = (found - expected).abs()
    # Not `>`, which is False for NaN.
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

    ``jumps``: about one element in a million may have the value on the other side of a jump.

    Raises:
        AssertionError: it is wrong.
    """
    assert gradient.shape == expected.shape, f"gradient: shape {tuple(gradient.shape)}"
    relative, absolute = _TOLERANCES[problem.dtype]
    # Rounding loses up to half of the least number above 0, which matters in float16.
    least = torch.finfo(problem.dtype).smallest_normal * torch.finfo(problem.dtype).eps
    largest = float(expected.abs().max()) * factor
    jump = (1 + relative) * largest if jumps else None
    for rows in _row_chunks(problem):
        _compare("gradient", gradient[rows], expected[rows] * factor, relative, absolute * largest + least, jump)


def jumps(case: str) -> bool:
    """Return whether the gradient of a case jumps."""
    return case in _JUMPING


def check(case: Case, implementation: Implementation, problem: Problem, expected: tuple[Tensor, ...]) -> None:
    """Run once and compare with float64.

    Raises:
        AssertionError: value or gradient is wrong.
    """
    value = implementation.run(problem.fresh(implementation.in_place), problem).detach()
    if implementation.copies:
        assert torch.equal(value, problem.source), "the copy differs"
        return
    check_value(value, problem, expected[0])
    check_gradient(problem.gradient(implementation.in_place), problem, expected[1], jumps=jumps(case.name))
    for of_other in expected[2:]:
        assert problem.other.grad is not None, "no gradient of the other logits"
        check_gradient(problem.other.grad, problem, of_other)
