"""Compounds in the Triton engine, by the ops: compared with float64, and with their terms one by one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, _ops
from mlloss_cuda._call import Options, TensorArguments, shared_arguments

from .cases import Case, all_cases
from .conftest import TRITON_STRATEGIES, Backend, planned
from .inputs import (
    Outcome,
    Reference,
    as_layout,
    assert_within_budget,
    random_logits,
    random_positives,
    random_probabilities,
)

pytestmark = pytest.mark.triton_engine

_PARAMETERS = 8  # of a term: its coefficient, its functor's parameters, zeros
_SAMPLES = _ops.GROUPINGS.index("samples")
_CASES = {case.spec: case for case in reversed(all_cases()) if case.grouping in ("element", "samples")}


class Compound(NamedTuple):
    """Coefficients and losses. A call returns the rows' losses by the public functions."""

    terms: tuple[tuple[float, Case], ...]

    @property
    def name(self) -> str:
        return "+".join(case.spec for _, case in self.terms)

    @property
    def parameters(self) -> list[float]:
        padded = ((c, *case.parameters, *(0.0,) * _PARAMETERS)[:_PARAMETERS] for c, case in self.terms)
        return [number for numbers in padded for number in numbers]

    def __call__(self, logits: Tensor, targets: Any, **arguments: Any) -> Tensor:
        rows = (case(logits, targets, reduction="none", **arguments) for _, case in self.terms)
        values = (row.sum(1) if row.dim() == 2 else row for row in rows)
        return torch.stack([c * value for (c, _), value in zip(self.terms, values, strict=True)]).sum(0)


def compound(*names: str) -> Compound:
    """Return the compound of these losses, with coefficients that every float dtype holds exactly."""
    return Compound(tuple(((1.5, 0.25, 2.0)[k % 3], _CASES[name]) for k, name in enumerate(names)))


COMPOUNDS = tuple(
    compound(*names)
    for names in (
        ("zlpr", "dice"),
        ("sigmoid_focal", "zlpr", "dice"),
        ("multi_positive_cross_entropy", "dice", "bce_with_logits"),
        ("sigmoid_focal", "dice"),
        ("asymmetric", "squared_hinge"),
        ("lsep", "self_adjusting_dice", "zlpr"),
        ("dice", "multi_positive_cross_entropy", "margin_bce", "lsep"),
    )
)


class Given(NamedTuple):
    """The arguments of the ops beside a loss and its logits."""

    sides: TensorArguments
    smoothing: float = 0.0
    ignore_index: int | None = None

    @staticmethod
    def of(targets: Any, dtype: torch.dtype, arguments: dict[str, Any]) -> Given:
        """Convert the public functions' arguments to those of the ops."""
        if isinstance(targets, CSRTargets):
            values = None if targets.values is None else targets.values.to(dtype)
            placed = TensorArguments(None, targets.crow_indices, targets.col_indices, values)
        else:
            placed = TensorArguments(targets)
        tensors = {name: arguments[name].to(dtype) for name in ("weight", "sample_weight") if name in arguments}
        smoothing = arguments.get("label_smoothing", 0.0)
        return Given(placed._replace(**tensors), smoothing, arguments.get("ignore_index"))

    def tail(self, name: str, parameters: Any, grouping: int, labels: int, reduction: str = "none") -> tuple[Any, ...]:
        numbers = {"label_smoothing": self.smoothing, "ignore_index": self.ignore_index, "all_labels": labels}
        options = Options(name, tuple(parameters), grouping, _ops.REDUCTIONS.index(reduction), **numbers)
        return shared_arguments(self.sides, options)


def forward(backend: Backend, loss: Compound, logits: Tensor, given: Given, reduction: str = "none") -> Any:
    ops = getattr(torch.ops, backend.namespace)
    tail = given.tail(loss.name, loss.parameters, _SAMPLES, logits.shape[1], reduction)
    return ops.loss_forward(True, True, logits, *tail)


def backward(
    backend: Backend, loss: Compound, logits: Tensor, given: Given, known: tuple[Tensor, Tensor], sums: bool = False
) -> Any:
    """Return the results of loss_backward; ``known`` has the coefficients and grad_output."""
    ops = getattr(torch.ops, backend.namespace)
    tail = given.tail(loss.name, loss.parameters, _SAMPLES, logits.shape[1])
    return ops.loss_backward(*known, True, sums, sums, sums, logits, *tail)


class SingleTerm(NamedTuple):
    """The results of a term by its own op."""

    value: Tensor  # of rows, before sample weights
    gradients: tuple[Tensor, ...]  # as loss_backward returns them
    from_kept: Tensor  # the logits' gradient, from the compound's coefficients


def single_term(
    backend: Backend, case: Case, logits: Tensor, given: Given, kept: Tensor, grad_output: Tensor
) -> SingleTerm:
    ops = getattr(torch.ops, backend.namespace)
    unweighted = given._replace(sides=given.sides._replace(sample_weight=None))
    of_term = case.spec, case.parameters, _ops.GROUPINGS.index(case.grouping), logits.shape[1]
    value, coefficients, _ = ops.loss_forward(True, False, logits, *unweighted.tail(*of_term))
    assert kept.shape[0] == coefficients.shape[0]
    seed = grad_output[:, None].expand(logits.shape) if case.element_wise else grad_output
    tail = given.tail(*of_term)
    gradients = ops.loss_backward(coefficients, seed, True, True, True, True, logits, *tail)
    from_kept = gradients[0]
    if not case.element_wise:
        from_kept = ops.loss_backward(kept, seed, True, False, False, False, logits, *tail)[0]
    return SingleTerm(value.sum(1) if case.element_wise else value, gradients, from_kept)


def assert_close(got: Tensor, added: list[Tensor]) -> None:
    """Assert equality with the sum of ``added``, relative to its size. Each low-precision gradient is rounded once."""
    assert got.dtype == added[0].dtype
    low = got.dtype in (torch.bfloat16, torch.float16)
    roundings = (2 if low else 256) * torch.finfo(got.dtype).eps
    whole, size = sum(x.double() for x in added), sum(x.double().abs() for x in added)
    assert torch.equal(got.isnan(), whole.isnan())
    infinite, finite = whole.isinf(), whole.isfinite()
    assert torch.equal(got[infinite].double(), whole[infinite])
    if finite.any():
        errors = (got.double() - whole).abs()[finite]
        # Sums over rows or labels have errors of the size of the largest.
        budget = roundings * (size[finite] if got.dim() == 2 else size[finite].max()) + torch.finfo(got.dtype).tiny
        assert bool((errors <= budget).all()), f"error {errors.max():.3e}, {(errors / budget).max():.1f} budgets"


def assert_equals_its_terms(
    backend: Backend, loss: Compound, logits: Tensor, given: Given, grad_output: Tensor, elements: int | None = None
) -> None:
    """Compare values, gradients, their sums and the kept coefficients. ``elements``: the compound's tile size."""
    with planned(backend.strategy, elements) if elements else nullcontext():
        value, coefficients, gradient = forward(backend, loss, logits, given)
        found = backward(backend, loss, logits, given, (coefficients, grad_output), sums=True)
    parts, first = [], 0
    for c, case in loss.terms:
        kept = coefficients[first : first + case.registered.coefficients]
        parts.append(single_term(backend, case, logits, given, kept, c * grad_output))
        first += kept.shape[0]
    weight = given.sides.sample_weight
    values = [c * part.value for (c, _), part in zip(loss.terms, parts, strict=True)]
    if weight is not None:
        values = [torch.where(weight == 0, 0, weight * value) for value in values]
    assert_close(value, values)
    # Each term's value follows the coefficients.
    assert coefficients.shape == (first + len(parts), logits.shape[0])
    for each, part in zip(coefficients[first:], parts, strict=True):
        assert_close(each, [part.value])
    for got, *each in zip(found, *(part.gradients for part in parts), strict=True):
        assert_close(got, each)
    assert_close(found[0], [part.from_kept for part in parts])
    if bool((grad_output == 1).all()):
        assert_close(gradient, [found[0]])


# ---- tests -----------------------------------------------------------------------------------------------


OPTIONS: tuple[tuple[torch.dtype, str, tuple[str, ...]], ...] = (
    (torch.float32, "bool", ()),
    (torch.bfloat16, "csr32", ("weight",)),
    (torch.float32, "float32", ("weight", "sample_weight", "ignore_index")),
    (torch.float16, "int64", ("ignore_index",)),
    (torch.float64, "csr64", ("sample_weight",)),
    (torch.bfloat16, "probabilities", ("weight", "label_smoothing")),
    (torch.float32, "csr probabilities", ("sample_weight", "weight")),
)


def drawn(
    generator: torch.Generator, shape: tuple[int, int], layout: str, names: tuple[str, ...], device: str
) -> tuple[Any, dict[str, Any]]:
    """Return targets, and arguments of the public functions."""
    dense = random_positives(generator, shape)
    arguments: dict[str, Any] = {}
    if "probabilities" in layout:
        soft = random_probabilities(generator, shape)
        targets = as_layout(soft, "csr64" if layout.startswith("csr") else "float64", device)
    else:
        if "ignore_index" in names:
            dense = torch.where(torch.rand(shape, generator=generator) < 0.1, -1.0, dense.double())
            arguments["ignore_index"] = -1
        targets = as_layout(dense, layout, device)
    for name, size in (("weight", shape[1]), ("sample_weight", shape[0])):
        if name in names:
            # Multiples of 1/4, including zeros.
            arguments[name] = torch.randint(0, 9, (size,), generator=generator).double().to(device) / 4
    if "label_smoothing" in names:
        arguments["label_smoothing"] = 0.125
    return targets, arguments


def belongs_to_other_strategy(backend: Backend, place: int) -> bool:
    """Whether another strategy runs this combination: strategies take them in turn."""
    return backend.strategy != TRITON_STRATEGIES[place % len(TRITON_STRATEGIES)]


@pytest.mark.parametrize("place", range(len(OPTIONS)), ids=lambda place: " ".join(map(str, OPTIONS[place])))
def test_sum_of_definitions(backend: Backend, generator: torch.Generator, place: int) -> None:
    """Each dtype, layout and option, with one compound and rows of several tiles."""
    dtype, layout, names = OPTIONS[place]
    if belongs_to_other_strategy(backend, place):
        return
    loss, shape = COMPOUNDS[place], (4, 171)
    logits = random_logits(generator, shape, dtype, backend.device)
    targets, arguments = drawn(generator, shape, layout, names, backend.device)
    given = Given.of(targets, _ops.compute_dtype(logits), arguments)
    grad_output = torch.randn(shape[0], generator=generator).to(backend.device, _ops.compute_dtype(logits))
    with planned(backend.strategy, 128):
        value, coefficients, gradient = forward(backend, loss, logits, given)
        found = backward(backend, loss, logits, given, (coefficients, grad_output))
    assert_within_budget(Outcome(value, gradient), Reference(loss, logits, targets, **arguments))
    assert_within_budget(Outcome(value, found[0]), Reference(loss, logits, targets, grad_output, **arguments))


@pytest.mark.parametrize("place", (0, 3, 4, 6), ids=lambda place: COMPOUNDS[place].name)
def test_equals_its_terms(backend: Backend, generator: torch.Generator, place: int) -> None:
    """A compound has its terms' values, coefficients, and gradient sums over labels and rows."""
    if belongs_to_other_strategy(backend, place + 1):
        return
    loss, shape = COMPOUNDS[place], (5, 81)
    dtype, layout, names = OPTIONS[(place + 2) % len(OPTIONS)]
    logits = random_logits(generator, shape, dtype, backend.device)
    targets, arguments = drawn(generator, shape, layout, names, backend.device)
    grad_output = torch.randn(shape[0], generator=generator).to(backend.device, _ops.compute_dtype(logits))
    assert_equals_its_terms(backend, loss, logits, Given.of(targets, grad_output.dtype, arguments), grad_output)


@pytest.mark.parametrize("place", (1, 2, 4, 5, 6), ids=lambda place: COMPOUNDS[place].name)
def test_extreme_rows(backend: Backend, generator: torch.Generator, place: int) -> None:
    """Rows in which only some terms need maxima; infinities, NaN, and rows of weight 0."""
    if belongs_to_other_strategy(backend, place):
        return
    loss, shape = COMPOUNDS[place], (9, 300)
    logits = random_logits(generator, shape, torch.float32, backend.device)
    targets = random_positives(generator, shape, 0.05).to(backend.device)
    targets[:, :2] = torch.tensor([True, False])
    logits[0, 0], logits[1, 1], logits[2, 290] = 1e4, 1e4, -1e4
    logits[3, 0], logits[4, 1], logits[5, 0] = torch.inf, -torch.inf, -torch.inf
    logits[6, 200], logits[7, 7] = torch.nan, torch.nan
    logits[8] -= 200
    sample_weight = torch.tensor([1.0, 2, 1, 0.5, 1, 1, 1, 0, 1], device=backend.device)
    given = Given(TensorArguments(targets, sample_weight=sample_weight))
    assert_equals_its_terms(backend, loss, logits, given, torch.ones_like(sample_weight), 256)


def test_weight_of_zero_where_labels_compete(backend: Backend, generator: torch.Generator) -> None:
    """A weight of 0 excludes a label from terms without competing labels, whatever its logit is."""
    loss = compound("multi_positive_cross_entropy", "squared_hinge", "dice")
    logits = random_logits(generator, (4, 30), torch.float32, backend.device)
    logits[:3, 3] = torch.tensor([torch.nan, 1e25, torch.inf])
    targets, weight = random_positives(generator, (4, 30)).to(backend.device), torch.ones(30, device=backend.device)
    weight[3] = 0
    given = Given(TensorArguments(targets, weight=weight))
    assert_equals_its_terms(backend, loss, logits, given, torch.ones(4, device=backend.device))


def test_label_parameters(backend: Backend, generator: torch.Generator) -> None:
    """Every element-wise term that takes label parameters gets them; a loss may occur twice with other parameters."""
    weighted = replace(_CASES["bce_with_logits"], parameters=(3.0,))
    loss = Compound(((0.5, weighted), *COMPOUNDS[2].terms))
    logits = random_logits(generator, (4, 60), torch.float32, backend.device)
    targets, arguments = drawn(generator, (4, 60), "bool", ("weight",), backend.device)
    given = Given.of(targets, logits.dtype, arguments)
    given = given._replace(sides=given.sides._replace(label_parameter=torch.rand(60, generator=generator).to(logits)))
    assert_equals_its_terms(backend, loss, logits, given, torch.ones(4, device=backend.device))


def test_reductions(backend: Backend, generator: torch.Generator) -> None:
    """A reduction's factor reaches every term, here eight of them."""
    loss = compound("zlpr", "dice", "sigmoid_focal", "zlpr", "lsep", "bce_with_logits", "dice", "asymmetric")
    logits = random_logits(generator, (6, 40), torch.float32, backend.device)
    given = Given(TensorArguments(random_positives(generator, (6, 40)).to(backend.device)))
    value, coefficients, gradient = forward(backend, loss, logits, given)
    mean, kept, of_mean = forward(backend, loss, logits, given, "mean")
    assert torch.equal(kept, coefficients)
    torch.testing.assert_close(mean, value.mean())
    torch.testing.assert_close(of_mean, gradient / 6)


def test_counts(backend: Backend) -> None:
    """A compound keeps its terms' coefficients, and a value for each term."""
    from mlloss_cuda._triton import functor_of

    for loss in COMPOUNDS:
        made = functor_of(loss.name)
        assert made is functor_of(loss.name)
        assert made.coefficients.value == sum(case.registered.coefficients + 1 for _, case in loss.terms)
        assert made.softmax_over_labels == any(case.softmax_over_labels for _, case in loss.terms)
