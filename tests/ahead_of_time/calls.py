"""Calls that need every Triton kernel, and every compile-time branch of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, symmetric_kl_loss
from mlloss_cuda._call import Options, TensorArguments, shared_arguments
from mlloss_cuda._ops import GROUPINGS

from ..cases import all_cases
from ..parts import in_parts

Call = tuple[str, Callable[[], Tensor]]

LONG, FEW, SHORT = (80, 131_073), (2, 131_073), (64, 80)
# One case for each functor and grouping, by their names.
LOSSES = {f"{case.spec}, {case.grouping}": case for case in reversed(all_cases())}
MAIN = ("zlpr, samples", "sigmoid_focal, element", "dice, samples", "dice, macro", "dice, micro")
OTHERS = tuple(name for name in LOSSES if name not in MAIN)
# Sums of losses: the one with most statistics, and others.
LARGEST = "zlpr+sigmoid_focal+dice"
COMPOUNDS = ("zlpr+sigmoid_focal", "zlpr+dice", "sigmoid_focal+dice", "bce_with_logits+dice", "asymmetric+zlpr")
# Losses whose groups span parts of the labels: rows, rows with second-pass sums, and everything.
PARTED = ("zlpr, samples", "decoupled_softmax, samples", "dice, micro")
_PARAMETERS = 8  # of a compound's term: the coefficient, the functor's parameters, zeros


def _targets(shape: tuple[int, int], layout: str) -> Any:
    dense = torch.zeros(shape, dtype=torch.bool)
    dense[:, 3] = True
    if layout in ("csr32", "csr64", "csr values"):
        csr = CSRTargets.from_dense(dense)
        dtype = torch.int32 if layout == "csr32" else torch.int64
        values = torch.ones(csr.col_indices.shape) if layout == "csr values" else None
        return CSRTargets(csr.crow_indices.to(dtype), csr.col_indices.to(dtype), shape[1], values)
    if layout == "strided":
        return dense.t().contiguous().t()
    return dense.to(getattr(torch, layout))


def _step(name: str, shape: tuple[int, int], dtype: torch.dtype, layout: str, **arguments: Any) -> Call:
    case = LOSSES[name]

    def step() -> Tensor:
        logits = torch.zeros(shape, dtype=dtype, requires_grad=True)
        value = case(logits * 1, _targets(shape, layout), **arguments)
        return torch.autograd.grad(2 * value.sum(), logits)[0]  # a factor of 1 launches nothing on the CPU

    words = ", ".join([str(dtype)[6:], layout, *arguments])
    return f"{name}, {shape[0]} x {shape[1]}, {words}", step


def _in_parts(name: str, layout: str) -> Call:
    """Return a step over two parts of the labels."""
    _, step = _step(name, LONG, torch.bfloat16, layout)

    def parted() -> Tensor:
        with in_parts((LONG[1] - 65_539, 65_539)):
            return step()

    return f"{name}, in parts, {layout}", parted


def _pair(dtype: torch.dtype, **arguments: Any) -> Call:
    """Return a step of a loss of two logits, with a gradient for each."""

    def step() -> Tensor:
        pair = [torch.zeros(LONG, dtype=dtype, requires_grad=True) for _ in range(2)]
        return torch.autograd.grad(2 * symmetric_kl_loss(*pair, **arguments), pair)[0]

    return f"symmetric_kl, {LONG[0]} x {LONG[1]}, {', '.join([str(dtype)[6:], *arguments])}", step


def _compound(name: str, shape: tuple[int, int], dtype: torch.dtype, layout: str, own: bool = False) -> Call:
    """Return a step by the ops: a forward that forms the gradient, and a backward. ``own`` adds [L] tensors."""
    cases = [next(case for case in LOSSES.values() if case.spec == term) for term in name.split("+")]
    parameters = [number for case in cases for number in (1.0, *case.parameters, *(0.0,) * _PARAMETERS)[:_PARAMETERS]]

    def step() -> Tensor:
        logits, targets = torch.zeros(shape, dtype=dtype), _targets(shape, layout)
        if isinstance(targets, CSRTargets):
            sides = TensorArguments(crow_indices=targets.crow_indices, col_indices=targets.col_indices)
        else:
            sides = TensorArguments(targets)
        if own:
            sides = sides._replace(weight=torch.ones(shape[1]), label_parameter=torch.ones(shape[1]))
        options = Options(name, tuple(parameters), GROUPINGS.index("samples"), 0, all_labels=shape[1])
        arguments = (logits, *shared_arguments(sides, options))
        ops = torch.ops.mlloss_cuda_triton
        value, coefficients, gradient = ops.loss_forward(True, True, *arguments)
        ops.loss_backward(coefficients, value, True, False, False, False, *arguments)
        return gradient

    return f"{name}, {shape[0]} x {shape[1]}, {str(dtype)[6:]}, {layout}", step


def main_calls() -> Iterator[Call]:
    """Yield the calls that most users make, for every target."""
    for name in MAIN:
        for layout in ("bool", "csr64"):
            yield _step(name, LONG, torch.bfloat16, layout)
        if "samples" in name:
            yield _step(name, FEW, torch.bfloat16, "csr64")
    yield _step("zlpr, samples", SHORT, torch.float32, "bool")
    for name in OTHERS:
        yield _step(name, LONG, torch.bfloat16, "csr64")
    yield _pair(torch.bfloat16)
    yield _compound(LARGEST, LONG, torch.bfloat16, "csr64")
    for name in PARTED:
        yield _in_parts(name, "csr64")


def more_calls() -> Iterator[Call]:
    """Yield calls with other dtypes, layouts and options."""
    for name in MAIN:
        yield _step(name, LONG, torch.float32, "csr32")
        yield _step(name, LONG, torch.float16, "bool")
    for name in OTHERS:
        yield _step(name, LONG, torch.float32, "float32", weight=torch.ones(LONG[1]))
    yield _pair(torch.float32, weight=torch.ones(LONG[1]))
    yield _pair(torch.float64)
    for name in ("zlpr, samples", "sigmoid_focal, element", "dice, macro"):
        yield _step(name, LONG, torch.float64, "csr values")
        yield _step(name, SHORT, torch.bfloat16, "float32", ignore_index=-1, label_smoothing=0.1)
        yield _step(name, SHORT, torch.float32, "int64", ignore_index=-1, reduction="none")
        yield _step(name, LONG, torch.bfloat16, "bool", **_sides(LONG))
        yield _step(name, LONG, torch.float32, "csr values", inplace_backward=True, reduction="sum", normalizer=3.0)
    for name in COMPOUNDS:
        yield _compound(name, LONG, torch.bfloat16, "csr64")
    yield _compound(LARGEST, FEW, torch.bfloat16, "bool")
    yield _compound(LARGEST, LONG, torch.float32, "float32", own=True)
    yield _step("zlpr, samples", LONG, torch.float16, "strided")
    yield _step("zlpr, samples", FEW, torch.float64, "float64", ignore_index=-1)
    yield _step("zlpr, samples", LONG, torch.float32, "bool", threshold=torch.zeros(LONG[0], 1, requires_grad=True))


def _sides(shape: tuple[int, int]) -> dict[str, Any]:
    rows, labels = shape
    return {
        "weight": torch.ones(labels),
        "sample_weight": torch.ones(rows),
        "logit_scale": torch.ones((), requires_grad=True),
        "logit_bias": torch.zeros(labels, requires_grad=True),
    }
