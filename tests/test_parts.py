"""Losses over parts of the labels equal the loss over all labels."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, _ops, symmetric_kl_loss
from mlloss_cuda._call import Options, TensorArguments, shared_arguments

from .cases import Case
from .conftest import Backend
from .inputs import (
    Outcome,
    Reference,
    as_layout,
    assert_within_budget,
    evaluate,
    random_logits,
    random_positives,
    random_probabilities,
    weights_and_offsets,
)
from .parts import in_parts

pytestmark = pytest.mark.parts
# Parts of one label, of none, and of whole and partial tiles.
SIZES = (1, 0, 1030, 1169)
SHAPE = (9, sum(SIZES))


def assert_parts_equal_the_whole(call: Any, logits: Tensor, targets: Any, **arguments: Any) -> None:
    """Assert that parts are within the budget against float64, and equal the fused whole up to rounding."""
    grad_output = arguments.pop("grad_output", None)
    whole = evaluate(call, logits, targets, grad_output, **arguments)
    with in_parts(SIZES):
        got = evaluate(call, logits, targets, grad_output, **arguments)
    assert got.value.dtype == whole.value.dtype
    assert got.gradient.dtype == whole.gradient.dtype
    assert_within_budget(got, Reference(call, logits, targets, grad_output, **arguments))
    assert_close(got, whole)


def assert_close(got: Outcome, whole: Outcome) -> None:
    for name, dtype in (("value", whole.value.dtype), ("gradient", whole.gradient.dtype)):
        own, other = getattr(got.double(), name), getattr(whole.double(), name)
        size = float(other[other.isfinite()].abs().max()) if bool(other.isfinite().any()) else 0.0
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(own, other, rtol=64 * eps, atol=64 * eps * size, equal_nan=True)


@pytest.mark.parametrize(
    "kind", ("float32 bool", "bfloat16 csr64", "float16 csr32", "float64 float32", "float32 int64")
)
@pytest.mark.parametrize("reduction", ("none", "sum", "mean", "batchmean"))
def test_dtypes_layouts_reductions(
    served: Case, backend: Backend, generator: torch.Generator, reduction: str, kind: str
) -> None:
    name, layout = kind.split()
    dtype = getattr(torch, name)
    logits = random_logits(generator, SHAPE, dtype, backend.device)
    targets = as_layout(random_positives(generator, SHAPE, 0.05), layout, backend.device)
    with torch.no_grad():
        shape = served(logits, targets, reduction=reduction).shape
    grad_output = torch.randn(shape, generator=generator, dtype=torch.float64).to(backend.device)
    assert_parts_equal_the_whole(served, logits, targets, grad_output=grad_output, reduction=reduction)


@pytest.mark.parametrize("layout", ("float32", "csr64"))
@pytest.mark.parametrize("smoothing", (0.0, 0.1))
def test_probabilities_and_smoothing(
    served: Case, backend: Backend, generator: torch.Generator, smoothing: float, layout: str
) -> None:
    logits = random_logits(generator, SHAPE, torch.float32, backend.device)
    targets = as_layout(random_probabilities(generator, SHAPE), layout, backend.device)
    assert_parts_equal_the_whole(served, logits, targets, label_smoothing=smoothing)


@pytest.mark.parametrize("layout", ("int8", "csr64"))
@pytest.mark.parametrize("reduction", ("none", "sum", "mean", "batchmean"))
def test_weights_offsets_and_unknown_labels(
    served: Case, backend: Backend, generator: torch.Generator, reduction: str, layout: str
) -> None:
    device = backend.device
    logits = random_logits(generator, SHAPE, torch.float32, device)
    dense = random_positives(generator, SHAPE, 0.05).double()
    dense[torch.rand(SHAPE, generator=generator) < 0.1] = -1
    arguments = {**weights_and_offsets(generator, SHAPE, device), "ignore_index": -1, "reduction": reduction}
    if reduction == "sum":
        arguments["normalizer"] = 37.0
    assert_parts_equal_the_whole(served, logits, as_layout(dense, layout, device), **arguments)


@pytest.mark.parametrize("place", (0, 600, 2199))
def test_one_part_overflows(served: Case, backend: Backend, generator: torch.Generator, place: int) -> None:
    """The part with the extreme logit has other maxima than the rest."""
    logits = random_logits(generator, SHAPE, torch.float32, backend.device)
    targets = random_positives(generator, SHAPE, 0.05).to(backend.device)
    logits[2, place], targets[2, place] = 500.0, False
    logits[3, place], targets[3, place] = -700.0, True
    logits[4, place], targets[4, place] = 1e4, False
    logits[5:7] -= 300.0
    assert_parts_equal_the_whole(served, logits, targets)


def test_infinite_and_unknown_logits(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, SHAPE, torch.float32, backend.device)
    targets = random_positives(generator, SHAPE, 0.05).to(backend.device)
    logits[2, 600], targets[2, 600] = torch.inf, False
    logits[3, 1040], targets[3, 1040] = -torch.inf, True
    logits[4, 5], targets[4, 5] = torch.inf, True
    logits[5, 2000] = torch.nan
    whole = evaluate(served, logits, targets)
    with in_parts(SIZES):
        got = evaluate(served, logits, targets)
    assert_close(got, whole)


@pytest.mark.parametrize("reduction", ("sum", "none"))
def test_learned_scale_bias_and_threshold(
    served: Case, backend: Backend, generator: torch.Generator, reduction: str
) -> None:
    """The gradients of a scale, a bias for each label and a threshold for each row."""
    logits = random_logits(generator, SHAPE, torch.float64, backend.device)
    targets = random_positives(generator, SHAPE, 0.05).to(backend.device)
    learned = {
        "logit_scale": torch.tensor(0.8, dtype=torch.float64, device=backend.device),
        "logit_bias": torch.randn(SHAPE[1], generator=generator, dtype=torch.float64).to(backend.device),
    }
    if "threshold" in served.module.__init__.__annotations__:
        learned["threshold"] = torch.rand((SHAPE[0], 1), generator=generator, dtype=torch.float64).to(backend.device)
        learned["logit_bias"] = None
    leaves = {name: value.requires_grad_() for name, value in learned.items() if value is not None}
    results = []
    for cut in (nullcontext(), in_parts(SIZES)):
        with cut:
            value = served(logits, targets, **learned, reduction=reduction)
        results.append(torch.autograd.grad(value.square().sum(), list(leaves.values())))
    for got, whole in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.element_wise
def test_two_logits(backend: Backend, generator: torch.Generator) -> None:
    pair = [random_logits(generator, SHAPE, torch.float32, backend.device).requires_grad_() for _ in range(2)]
    results = []
    for cut in (nullcontext(), in_parts(SIZES)):
        with cut:
            value = symmetric_kl_loss(*pair, logit_scale=0.7)
        results.append((value.detach(), *torch.autograd.grad(value, pair)))
    for got, whole in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-9)


def part_of(case: Case, logits: Tensor, targets: CSRTargets, own: slice, reduction: str) -> tuple[Any, ...]:
    """Return the shared arguments of the ops for one part."""
    sides = TensorArguments(crow_indices=targets.crow_indices, col_indices=targets.col_indices)
    grouping, reduction_number = _ops.GROUPINGS.index(case.grouping), _ops.REDUCTIONS.index(reduction)
    labels = {"first_label": own.start, "all_labels": logits.shape[1]}
    options = Options(case.spec, case.parameters, grouping, reduction_number, **labels)
    part = logits[:, own].contiguous()
    return part, *shared_arguments(sides, options)


def test_in_place_ops_give_the_same_results(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, SHAPE, torch.float32, backend.device)
    targets = CSRTargets.from_dense(random_positives(generator, SHAPE, 0.05)).to(backend.device)
    ops, own = getattr(torch.ops, backend.namespace), slice(1031, 2057)
    arguments = part_of(served, logits, targets, own, "batchmean")
    value, coefficients, gradient = ops.loss_forward(True, True, *arguments)
    again = arguments[0].clone(), *arguments[1:]
    value_, coefficients_ = ops.loss_forward_(True, *again)
    assert torch.equal(value, value_)
    assert torch.equal(coefficients, coefficients_)
    assert torch.equal(gradient, again[0])
    grad_output = torch.tensor(1.0, device=backend.device)
    recomputed = ops.loss_backward(coefficients, grad_output, True, False, False, False, *arguments)[0]
    again = arguments[0].clone(), *arguments[1:]
    ops.loss_backward_(coefficients, grad_output, False, False, False, *again)
    assert torch.equal(recomputed, again[0])


def test_ops_keep_their_contract(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Schemas and fakes agree with the ops, and the results have the documented shapes."""
    if served.grouping not in ("samples", "micro"):
        return
    logits = random_logits(generator, SHAPE, torch.bfloat16, backend.device)
    targets = CSRTargets.from_dense(random_positives(generator, SHAPE, 0.05)).to(backend.device)
    arguments = part_of(served, logits, targets, slice(1031, 2057), "mean")
    ops, tests = getattr(torch.ops, backend.namespace), ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.loss_statistics.default, arguments, test_utils=tests)
    statistics = ops.loss_statistics(*arguments)[None]
    counts = _ops.counts_of(served.spec)
    assert statistics.dtype == torch.float64
    assert statistics.shape[1] == counts.statistics
    torch.library.opcheck(ops.loss_merge.default, (statistics, served.spec), test_utils=tests)
    assert torch.equal(ops.loss_merge(statistics, served.spec), statistics[0])
    torch.library.opcheck(ops.loss_second_pass.default, (statistics[0], *arguments), test_utils=tests)
    second_sums = ops.loss_second_pass(statistics[0], *arguments)[None]
    assert second_sums.shape[1:] == (counts.second_pass_sums, statistics.shape[2])
    sample_weight = torch.rand(SHAPE[0], generator=generator).to(backend.device)
    for reduction in (0, 2):
        own = served.spec, list(served.parameters), _ops.GROUPINGS.index(served.grouping), reduction
        finalize = (statistics, second_sums, sample_weight, None, *own)
        torch.library.opcheck(ops.loss_finalize.default, (*finalize, SHAPE[0], torch.float32), test_utils=tests)


def test_parts_without_rows(served: Case, backend: Backend) -> None:
    logits = torch.zeros((0, SHAPE[1]), device=backend.device)
    targets = torch.zeros(logits.shape, dtype=torch.bool, device=backend.device)
    with in_parts(SIZES):
        got = evaluate(served, logits, targets)
    assert bool(got.value.isnan()) == bool(served(logits, targets).isnan())
    assert got.gradient.shape == logits.shape
