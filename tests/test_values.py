"""Values and gradients of every loss, compared with float64 autograd of its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import CSRTargets, bce_with_logits_loss

from .cases import Case
from .conftest import Backend
from .inputs import (
    LAYOUTS,
    SOFT_LAYOUTS,
    Reference,
    as_layout,
    assert_within_budget,
    evaluate,
    random_logits,
    random_positives,
    random_probabilities,
    weights_and_offsets,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REDUCTIONS = ("none", "sum", "mean", "batchmean")
# One label, odd rows within a tile, whole and partial tiles, and enough rows for several threads.
SHAPES = ((3, 1), (5, 37), (3, 4500), (17, 2048), (16, 2111))


def random_grad_output(generator: torch.Generator, call: Any, logits: torch.Tensor, targets: Any, **arguments: Any):
    with mlloss_cuda.use_backend("reference"), torch.no_grad():
        shape = call(logits, targets, **arguments).shape
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(logits.device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_reductions_shapes(
    served: Case,
    backend: Backend,
    generator: torch.Generator,
    dtype: torch.dtype,
    reduction: str,
    shape: tuple[int, int],
) -> None:
    logits = random_logits(generator, shape, dtype, backend.device)
    targets = as_layout(random_positives(generator, shape), "bool", backend.device)
    grad_output = random_grad_output(generator, served, logits, targets, reduction=reduction)
    reference = Reference(served, logits, targets, grad_output, reduction=reduction)
    got = evaluate(served, logits, targets, grad_output, reduction=reduction)
    assert got.value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.gradient.dtype == dtype
    assert_within_budget(got, reference)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_agree(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str
) -> None:
    shape = (9, 2200)
    logits = random_logits(generator, shape, dtype, backend.device)
    dense = random_positives(generator, shape, 0.01)
    got = evaluate(served, logits, as_layout(dense, layout, backend.device))
    reference = Reference(served, logits, dense.to(backend.device))
    assert_within_budget(got, reference)


@pytest.mark.parametrize("layout", SOFT_LAYOUTS)
@pytest.mark.parametrize("smoothing", (0.0, 0.1))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
def test_probabilities_and_smoothing(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, smoothing: float, layout: str
) -> None:
    shape = (9, 2200)
    logits = random_logits(generator, shape, dtype, backend.device)
    dense = random_probabilities(generator, shape)
    arguments = {"label_smoothing": smoothing, "reduction": "batchmean"}
    got = evaluate(served, logits, as_layout(dense, layout, backend.device), **arguments)
    reference = Reference(served, logits, dense.to(backend.device), **arguments)
    assert_within_budget(got, reference)


@pytest.mark.parametrize("layout", ("bool", "int64", "csr64", "float32"))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_weights_offsets_and_scale(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, reduction: str, layout: str
) -> None:
    shape = (9, 2200)
    device = backend.device
    logits = random_logits(generator, shape, dtype, device)
    dense = random_positives(generator, shape, 0.05)
    arguments = {**weights_and_offsets(generator, shape, device), "reduction": reduction}
    if reduction == "sum":
        arguments["normalizer"] = 37.0
    targets = as_layout(dense, layout, device)
    grad_output = random_grad_output(generator, served, logits, targets, **arguments)
    reference = Reference(served, logits, targets, grad_output, **arguments)
    assert_within_budget(evaluate(served, logits, targets, grad_output, **arguments), reference)


@pytest.mark.parametrize("layout", ("bool", "int64", "csr32", "float32"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_label_parameters(backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str) -> None:
    """A loss's own parameter for each label enters the value and all sums of the gradient, with or without weights."""
    shape, device = (9, 2203), backend.device
    logits = random_logits(generator, shape, dtype, device)
    targets = as_layout(random_positives(generator, shape, 0.05), layout, device)
    arguments: dict[str, Any] = {"pos_weight": torch.rand(shape[1], generator=generator).to(device) * 4}
    reference = Reference(bce_with_logits_loss, logits, targets, **arguments)
    assert_within_budget(evaluate(bce_with_logits_loss, logits, targets, **arguments), reference)
    weight = torch.rand(shape[1], generator=generator).to(device)
    weight[::5] = 0
    bias = torch.randn(shape[1], generator=generator).to(device).requires_grad_()
    call = lambda y: bce_with_logits_loss(logits, y, weight=weight, logit_bias=bias, **arguments)  # noqa: E731
    (got,) = torch.autograd.grad(call(targets), bias)
    with mlloss_cuda.use_backend("reference"):
        (expected,) = torch.autograd.grad(call(targets), bias)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("layout", ("int8", "int64", "float32", "csr32", "csr64"))
@pytest.mark.parametrize("weighted", (False, True))
def test_unknown_labels(
    served: Case, backend: Backend, generator: torch.Generator, layout: str, weighted: bool
) -> None:
    """Value and gradient are the same as without the excluded labels, whatever their logits are."""
    shape = (9, 2200)
    device = backend.device
    dense = random_positives(generator, shape, 0.05).double()
    unknown = torch.rand(shape, generator=generator) < 0.1
    unknown[2] = True
    dense[unknown] = -1
    logits = random_logits(generator, shape, torch.float32, device)
    arguments: dict[str, Any] = {"reduction": "sum", "ignore_index": -1}
    if weighted:
        arguments["weight"] = torch.rand(shape[1], generator=generator).to(device)
    reference = Reference(served, logits, dense.to(device), **arguments)
    poisoned = logits.clone()
    poisoned[unknown.to(device)] = torch.nan
    targets: Any = as_layout(dense, layout, device)
    if isinstance(targets, CSRTargets):
        arguments["ignore_index"] = None
    got = evaluate(served, poisoned, targets, **arguments)
    assert_within_budget(got, reference)
    assert torch.equal(got.gradient[unknown.to(device)], torch.zeros(int(unknown.sum()), device=device))


def test_reference_is_the_definition(case: Case, generator: torch.Generator) -> None:
    if case.definition is None:
        # Groups that cross rows equal the reference's groups by sample of transposed or flattened inputs.
        logits = random_logits(generator, (6, 11), torch.float64, "cpu")
        targets = random_probabilities(generator, (6, 11))
        own = {name: value for name, value in case.own.items() if name != "average"}
        across = (
            (logits.t(), targets.t())
            if case.own["average"] == "macro"
            else (logits.reshape(1, -1), targets.reshape(1, -1))
        )
        with mlloss_cuda.use_backend("reference"):
            got = case(logits, targets, reduction="none")
            expected = case.function(*across, **own, reduction="none")
        torch.testing.assert_close(got.reshape(-1), expected)
        return
    logits = random_logits(generator, (6, 11), torch.float64, "cpu", 2.0)
    for targets in (random_positives(generator, (6, 11)).double(), random_probabilities(generator, (6, 11))):
        with mlloss_cuda.use_backend("reference"):
            got = case(logits, targets, reduction="none")
        expected = torch.stack([case.definition(s, y) for s, y in zip(logits, targets, strict=True)])
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_bools_of_any_byte(served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype) -> None:
    """A bool tensor that is a view of bytes has other bytes than 1 for True, which PyTorch reads as True too."""
    logits = random_logits(generator, (5, 203), dtype, backend.device)
    bools = random_positives(generator, (5, 203)).to(backend.device)
    some = torch.randint(1, 256, bools.shape, generator=generator, dtype=torch.uint8).to(backend.device)
    got, expected = evaluate(served, logits, (bools * some).view(torch.bool)), evaluate(served, logits, bools)
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)


def test_without_grad_the_value_is_the_same(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (12, 2111), torch.float32, backend.device)
    targets = random_positives(generator, (12, 2111)).to(backend.device)
    with torch.no_grad():
        without = served(logits.requires_grad_(), targets)
    assert torch.equal(without, served(logits, targets).detach())
    assert not without.requires_grad


def test_repeatable_bit_by_bit(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (12, 9000), torch.float32, backend.device)
    targets = random_positives(generator, (12, 9000)).to(backend.device)
    first, second = evaluate(served, logits, targets), evaluate(served, logits, targets)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.gradient, second.gradient)


@pytest.mark.parametrize("shape", ((40, 9000), (3, 40_000)), ids=("threads share rows", "threads share tiles"))
@pytest.mark.parametrize("threads", (1, 2, 3))
def test_threads_do_not_change_the_result(
    case: Case, generator: torch.Generator, threads: int, shape: tuple[int, int]
) -> None:
    """Tiles are merged in their order, whichever thread computes them."""
    before = torch.get_num_threads()
    logits = random_logits(generator, shape, torch.float32, "cpu")
    targets = random_positives(generator, shape)
    expected = evaluate(case, logits, targets)
    torch.set_num_threads(threads)
    try:
        got = evaluate(case, logits, targets)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)
