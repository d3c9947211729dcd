"""Sums of losses: terms that run together give the same results as each alone."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mlloss_cuda
from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    CompoundLoss,
    CSRTargets,
    DiceLoss,
    LSEPLoss,
    MarginBCELoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    TverskyLoss,
    ZLPRLoss,
    compound_loss,
)
from mlloss_cuda.losses._module import LossModule

from .conftest import Backend

SHAPE = (5, 1500)

SUMS = {
    "the three": [(1.0, ZLPRLoss()), (0.5, SigmoidFocalLoss()), (2.0, DiceLoss())],
    "elements": [(1.0, BCEWithLogitsLoss()), (-0.25, SquaredHingeLoss()), (0.5, SigmoidFocalLoss(alpha=None))],
    "the same twice": [(1.0, TverskyLoss(alpha=0.7, beta=0.3)), (1.0, DiceLoss(log=True))],
    "competing": [(0.1, MultiPositiveCrossEntropyLoss()), (1.0, DiceLoss()), (1.0, MarginBCELoss())],
    "ranks": [(1.0, LSEPLoss()), (0.5, ZLPRLoss()), (0.01, AsymmetricLoss())],
    "across rows": [(1.0, ZLPRLoss()), (1.0, DiceLoss(average="macro")), (1.0, DiceLoss(average="micro"))],
    "more than one": [(1.0, SigmoidFocalLoss(rescale=True)), (1.0, ZLPRLoss(threshold=0.5)), (1.0, DiceLoss())],
}


@pytest.fixture
def logits(generator: torch.Generator, backend: Backend) -> Tensor:
    return (3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)).to(backend.device)


@pytest.fixture
def targets(generator: torch.Generator, backend: Backend) -> Tensor:
    targets = (torch.rand(SHAPE, generator=generator) < 0.01).to(torch.int8)
    targets[0] = 0
    targets[torch.rand(SHAPE, generator=generator) < 0.02] = -1
    return targets.to(backend.device)


def one_by_one(terms: list[tuple[float, LossModule]], logits: Tensor, targets: Any, **common: Any) -> list[Tensor]:
    values = []
    for _, loss in terms:
        own = {name: getattr(loss, name) for name in loss.own}
        value = loss.function(logits, targets, **own, **common)
        elements = common.get("reduction") == "none" and value.dim() == logits.dim()
        values.append(value.sum(-1) if elements else value)
    return values


def assert_equals_sum_of_terms(
    terms: list[tuple[float, LossModule]], logits: Tensor, targets: Any, **common: Any
) -> None:
    """Assert that value, terms' values and gradient in float64 equal those of the terms up to rounding."""
    x, again = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    sample_weight = common.pop("sample_weight", None)
    loss = CompoundLoss(terms, **common)
    value = loss(x, targets, sample_weight)
    alone = one_by_one(terms, again, targets, sample_weight=sample_weight, **common)
    expected = sum(coefficient * own for (coefficient, _), own in zip(terms, alone, strict=True))
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
    assert loss.values is not None
    assert not loss.values.requires_grad
    torch.testing.assert_close(loss.values, torch.stack(alone, -1).detach(), rtol=1e-11, atol=1e-11)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("reduction", ("batchmean", "mean", "sum", "none"))
def test_is_the_sum_of_its_terms(
    backend: Backend, generator: torch.Generator, logits: Tensor, targets: Tensor, name: str, reduction: str
) -> None:
    weight = torch.rand(SHAPE[1], generator=generator)
    weight[::7] = 0
    sample_weight = torch.rand(SHAPE[0], generator=generator)
    sample_weight[2] = 0
    if reduction == "none" and name in ("across rows", "more than one"):
        with pytest.raises(ValueError, match=r"^(reduction|rescale)"):
            CompoundLoss(SUMS[name], reduction=reduction)(logits, targets.clamp(min=0))
        return
    assert_equals_sum_of_terms(
        SUMS[name],
        logits,
        targets,
        reduction=reduction,
        ignore_index=-1,
        weight=weight.to(backend.device),
        sample_weight=sample_weight.to(backend.device),
    )


@pytest.mark.parametrize("name", ("the three", "competing"))
def test_sparse_and_smoothed(backend: Backend, logits: Tensor, targets: Tensor, name: str) -> None:
    sparse = CSRTargets.from_dense(targets.clamp(min=0).cpu()).to(backend.device)
    bias = torch.linspace(-1, 1, SHAPE[1], dtype=torch.float64, device=backend.device)
    assert_equals_sum_of_terms(
        SUMS[name], logits, sparse, reduction="sum", normalizer=7.0, logit_scale=1.5, logit_bias=bias
    )
    assert_equals_sum_of_terms(SUMS[name], logits, sparse, reduction="batchmean", label_smoothing=0.1)


@pytest.mark.parametrize("name", ("the three", "ranks", "competing"))
def test_logits_that_overflow(backend: Backend, logits: Tensor, targets: Tensor, name: str) -> None:
    huge = logits.float() * 1e4
    huge[1, 3], huge[1, 4] = torch.inf, -torch.inf
    clean = targets.clamp(min=0)
    clean[1, 3], clean[1, 4] = 1, 0
    assert_equals_sum_of_terms(SUMS[name], huge.double(), clean, reduction="batchmean")


# Sums for which the CPU engine has one loop over all terms, in float32 (csrc/cpu/kernels.cpp).
FUSED_SUMS = {
    "bce_with_logits+dice": [(0.5, BCEWithLogitsLoss(pos_weight=2.0)), (1.0, DiceLoss())],
    "dice+sigmoid_focal": [(1.0, DiceLoss(squared=True)), (0.1, SigmoidFocalLoss())],
    "dice+zlpr": [(-1.0, DiceLoss()), (1.0, ZLPRLoss())],
    "sigmoid_focal+zlpr": [(0.1, SigmoidFocalLoss(gamma=0.5)), (1.0, ZLPRLoss())],
    "bce_with_logits+dice+zlpr": [(0.01, BCEWithLogitsLoss()), (1.0, DiceLoss()), (0.5, ZLPRLoss())],
    "dice+sigmoid_focal+zlpr": [(1.0, DiceLoss()), (0.1, SigmoidFocalLoss(gamma=1.5)), (1.0, ZLPRLoss())],
    "asymmetric+dice+zlpr": [(0.1, AsymmetricLoss()), (1.0, DiceLoss()), (1.0, ZLPRLoss())],
}


@pytest.mark.parametrize("name", FUSED_SUMS)
@pytest.mark.parametrize("kind", ("hard", "soft", "sparse", "huge", "weighted", "in place"))
@pytest.mark.parametrize("reduction", ("none", "sum"))
def test_rounds_no_worse_than_its_terms(
    backend: Backend, generator: torch.Generator, logits: Tensor, targets: Tensor, name: str, kind: str, reduction: str
) -> None:
    """The float32 error against float64, which runs term by term, is within a budget set by plain PyTorch's error."""
    terms = FUSED_SUMS[name]
    loss = CompoundLoss(terms)
    assert "+".join(sorted(term.term().spec.name for _, term in terms)) == name
    x = logits.float()
    y: Any = targets.clamp(min=0)
    if kind == "soft":
        y = (2 * torch.rand(SHAPE, generator=generator) - 0.5).clamp(0, 1).to(backend.device)
    elif kind == "sparse":
        y[1:3] = 0
        y = CSRTargets.from_dense(y.cpu()).to(backend.device)
    elif kind == "huge":
        x[:3] *= 40.0  # sums that overflow without a maximum, and those that do not
        x[2, :40], x[3, 7] = 60_000.0, -60_000.0
    weight = torch.rand(SHAPE[1], generator=generator).to(backend.device) if kind == "weighted" else None

    def run(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x.to(dtype).requires_grad_()
        in_place = kind == "in place" and len(loss.plan(backend.device)) == 1
        mine = CompoundLoss(
            terms,
            reduction=reduction,  # with a sum, the gradient is formed in the forward
            weight=None if weight is None else weight.to(dtype),
            inplace_backward=in_place,
        )
        value = mine(leaf * 1.0 if in_place else leaf, y.to(dtype) if kind == "soft" else y)
        value.sum().backward()
        return value.detach().double(), mine.values.double(), leaf.grad.double()

    exact, ours = run(torch.float64), run(torch.float32)
    with mlloss_cuda.use_backend("reference"):
        plain = run(torch.float32)
    for got, true, rough in zip(ours, exact, plain, strict=True):
        assert torch.equal(got.isfinite(), true.isfinite())
        budget = 4 * (rough - true).abs().nan_to_num(0.0).amax() + 4e-7 * true.abs().amax() + 1e-37
        assert float((got - true).abs().amax()) <= float(budget)


def test_plan_groups_terms_into_passes(backend: Backend) -> None:
    def names(loss: CompoundLoss) -> list[tuple[int, ...]]:
        return [passes.terms for passes in loss.plan(backend.device)]

    together = ZLPRLoss() + SigmoidFocalLoss() + DiceLoss()
    assert names(together) == [(2, 1, 0)]
    assert together.plan(backend.device)[0].backend == backend.name
    assert len(names(CompoundLoss(SUMS["across rows"]))) == 3
    assert len(names(CompoundLoss(SUMS["more than one"]))) == 3
    assert len(names(ZLPRLoss() + DiceLoss(weight=torch.ones(3)))) == 2
    any_sum = names(ZLPRLoss() + LSEPLoss() + DiceLoss())
    # The largest sum that the CUDA library has, then the remaining terms.
    assert any_sum == ([(2, 0), (1,)] if backend.library else [(2, 1, 0)])
    with mlloss_cuda.use_backend("reference"):
        assert names(together) == [(2,), (1,), (0,)]


@pytest.mark.parametrize("rows", (2, 40))
@pytest.mark.parametrize("kind", ("plain", "large", "weighted"))
@pytest.mark.parametrize("name", ("the three", "elements", "competing"))
def test_values_are_the_same_without_a_gradient(generator: torch.Generator, rows: int, kind: str, name: str) -> None:
    """The CPU engine shares out few rows by tiles, many whole, and evaluates element-wise terms with the gradient."""
    x = torch.randn((rows, 3000), generator=generator)
    y = CSRTargets.from_dense(torch.rand((rows, 3000), generator=generator) < 0.01)
    if kind == "large":
        x[0, 2500] = 120.0
    weight = torch.rand(3000, generator=generator) if kind == "weighted" else None
    alone = CompoundLoss(SUMS[name], weight=weight)
    value = alone(x, y)
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(CompoundLoss(SUMS[name], weight=weight)(exact, y), exact)
    for in_place in (False, True):
        loss = CompoundLoss(SUMS[name], weight=weight, inplace_backward=in_place)
        leaf = x.clone().requires_grad_()
        found = loss(leaf * 1, y)
        assert torch.equal(found.detach(), value)
        assert torch.equal(loss.values, alone.values)
        (gradient,) = torch.autograd.grad(found, leaf)
        torch.testing.assert_close(gradient, expected.float(), rtol=2e-5, atol=1e-6)


def test_many_terms_take_several_passes(backend: Backend, logits: Tensor, targets: Tensor) -> None:
    terms = [(1.0 / (i + 1), SigmoidFocalLoss(gamma=float(i))) for i in range(9)] + [(1.0, ZLPRLoss())]
    assert_equals_sum_of_terms(terms, logits, targets, reduction="mean", ignore_index=-1)


def test_operators() -> None:
    loss = ZLPRLoss() + 0.5 * SigmoidFocalLoss(gamma=3.0) + DiceLoss() * 2
    assert loss.coefficients == (1.0, 0.5, 2.0)
    assert [type(own) for own in loss.losses] == [ZLPRLoss, SigmoidFocalLoss, DiceLoss]
    assert (2 * loss).coefficients == (2.0, 1.0, 4.0)
    assert sum([ZLPRLoss(), DiceLoss()]).coefficients == (1.0, 1.0)
    assert loss.reduction == "batchmean"
    assert "coefficients=(1.0, 0.5, 2.0)" in repr(loss)
    with pytest.raises(TypeError):
        ZLPRLoss() + 1.0
    with pytest.raises(ValueError, match="^reduction"):
        CompoundLoss(loss.terms, reduction="sum") + DiceLoss()


@pytest.mark.parametrize("module", (False, True))
def test_a_compound_as_the_terms(logits: Tensor, targets: Tensor, module: bool) -> None:
    """Its terms are taken; options of its own, which the new sum would not have, are refused."""
    loss, targets = ZLPRLoss() + 0.5 * DiceLoss(), targets.clamp(min=0)
    call = (lambda x, y, own: CompoundLoss(own)(x, y)) if module else compound_loss
    assert torch.equal(call(logits, targets, loss), loss(logits, targets))
    with pytest.raises(ValueError, match="^label_smoothing"):
        call(logits, targets, CompoundLoss(loss.terms, label_smoothing=0.1))


@pytest.mark.parametrize("compiled", (False, True))
def test_values_do_not_outlive_a_transform(logits: Tensor, targets: Tensor, compiled: bool) -> None:
    """A tensor that torch.func.grad made could not be saved or copied after it."""
    torch._dynamo.reset()
    loss, targets = ZLPRLoss() + 0.5 * DiceLoss(), targets.clamp(min=0)
    x = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x, targets), x)
    assert loss.values is not None
    gradient = torch.func.grad(lambda x: loss(x, targets))
    got = (torch.compile(gradient) if compiled else gradient)(logits)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-12)
    assert copy.deepcopy(loss).values is None


@pytest.mark.parametrize("name", ("the three", "across rows"))
def test_values_are_those_of_their_call(logits: Tensor, targets: Tensor, name: str) -> None:
    """Later changes of the loss, the arguments or the module, and copies, leave the terms' values as they are."""
    loss, clean = CompoundLoss(SUMS[name], reduction="sum"), targets.clamp(min=0)
    loss.normalizer, weight = torch.tensor(7.0), torch.rand(logits.shape[:-1])
    x = logits.clone().requires_grad_()
    value = loss(x, clean, weight)
    expected = torch.stack(one_by_one(SUMS[name], logits, clean, sample_weight=weight, reduction="sum"), -1) / 7.0
    value /= 2
    value.backward()
    weight.zero_()
    loss.normalizer.zero_()
    loss.reduction = "mean"
    for each in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(each.values, expected, rtol=1e-5, atol=1e-6)
    assert CompoundLoss(SUMS[name]).values is None


@pytest.mark.parametrize(
    ("error", "argument", "terms"),
    [
        (TypeError, "terms", []),
        (TypeError, "terms", [ZLPRLoss()]),
        (TypeError, "terms", [(1.0, nn.BCEWithLogitsLoss())]),
        (TypeError, "terms", [("1", ZLPRLoss())]),
        (TypeError, "terms", [(1.0, ZLPRLoss() + DiceLoss())]),
        (ValueError, "terms", [(float("nan"), ZLPRLoss())]),
        (ValueError, "reduction", [(1.0, ZLPRLoss(reduction="sum"))]),
        (ValueError, "inplace_backward", [(1.0, ZLPRLoss(inplace_backward=True))]),
        (ValueError, "normalizer", [(1.0, ZLPRLoss(reduction="sum", normalizer=2.0))]),
    ],
)
@pytest.mark.parametrize("module", (False, True))
def test_terms_are_checked(error: type[Exception], argument: str, terms: Any, module: bool) -> None:
    common = {"reduction": "sum"} if argument == "normalizer" else {}
    call = CompoundLoss if module else functools.partial(compound_loss, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(error, match=f"^{argument}"):
        call(terms, **common)


def test_learned_threshold_scale_and_bias(backend: Backend, logits: Tensor, targets: Tensor) -> None:
    """The gradients of one term's threshold, and of a scale and bias of all terms."""
    learned = {
        "threshold": nn.Parameter(torch.tensor(0.3, dtype=torch.float64, device=backend.device)),
        "scale": nn.Parameter(torch.tensor(1.2, dtype=torch.float64, device=backend.device)),
        "bias": nn.Parameter(torch.zeros(SHAPE[1], dtype=torch.float64, device=backend.device)),
    }
    clean = targets.clamp(min=0)
    common = {"logit_scale": learned["scale"], "logit_bias": learned["bias"]}
    terms = [(1.0, ZLPRLoss(threshold=learned["threshold"])), (0.5, SigmoidFocalLoss()), (1.0, DiceLoss())]
    loss = CompoundLoss(terms, **common)
    assert set(dict(loss.named_parameters())) == {"losses.0.threshold", "logit_scale", "logit_bias"}
    got = torch.autograd.grad(loss(logits, clean), list(learned.values()))
    alone = one_by_one(terms, logits, clean, reduction="batchmean", **common)
    expected = torch.autograd.grad(alone[0] + 0.5 * alone[1] + alone[2], list(learned.values()))
    for own, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-10, atol=1e-12)


def test_label_parameters(backend: Backend, generator: torch.Generator, logits: Tensor, targets: Tensor) -> None:
    pos_weight = (torch.rand(SHAPE[1], generator=generator, dtype=torch.float64) + 0.5).to(backend.device)
    terms = [(1.0, BCEWithLogitsLoss(pos_weight=pos_weight)), (1.0, DiceLoss())]
    assert_equals_sum_of_terms(terms, logits, targets, ignore_index=-1, reduction="mean")


@pytest.mark.parametrize("second", ["the same", "others", "a number", "none"])
def test_one_loss_with_different_numbers_for_the_labels(
    backend: Backend, generator: torch.Generator, logits: Tensor, targets: Tensor, second: str
) -> None:
    """The numbers of one term do not reach another term of the same loss."""
    pos_weight = (torch.rand(SHAPE[1], generator=generator, dtype=torch.float64) + 0.5).to(backend.device)
    other = {"the same": pos_weight, "others": pos_weight * 3, "a number": 2.0, "none": None}[second]
    terms = [(1.0, BCEWithLogitsLoss(pos_weight=weight)) for weight in (pos_weight, other)]
    assert_equals_sum_of_terms([*terms, (1.0, DiceLoss())], logits, targets, ignore_index=-1, reduction="mean")


def test_shared_buffers_stay_shared() -> None:
    weight = torch.rand(7)
    loss = ZLPRLoss(weight=weight) + DiceLoss(weight=weight)
    assert len(loss.plan()) == 1
    assert len(loss.double().plan()) == 1
    assert loss.losses[0].weight.dtype == torch.float64


def test_in_place(backend: Backend, logits: Tensor, targets: Tensor) -> None:
    clean = targets.clamp(min=0)
    leaf = logits.clone().requires_grad_()
    x = leaf * 1.0
    loss = CompoundLoss(SUMS["the three"], inplace_backward=True)
    loss(x, clean).backward()
    again = logits.clone().requires_grad_()
    compound_loss(again, clean, SUMS["the three"]).backward()
    torch.testing.assert_close(leaf.grad, again.grad, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="^inplace_backward: expected terms that share one pass, got 3 passes"):
        compound_loss(leaf * 1.0, clean, SUMS["across rows"], inplace_backward=True)


def test_without_rows_or_labels(backend: Backend) -> None:
    loss = CompoundLoss(SUMS["the three"])
    for shape in ((0, 4), (3, 0)):
        x = torch.zeros(shape, device=backend.device, requires_grad=True)
        value = loss(x, torch.zeros(shape, device=backend.device))
        assert value.isnan() if shape[0] == 0 else value == 0
        assert loss.values is not None
        assert loss.values.shape == (3,)
        value.backward()
        assert x.grad is not None
        assert x.grad.shape == shape


def test_a_plan_does_not_outlive_what_it_depends_on() -> None:
    """Coefficients, attributes of terms, properties and terms themselves take effect in the next call."""

    class Scheduled(SigmoidFocalLoss):
        gamma = property(lambda self: gammas[-1], lambda self, value: None)  # type: ignore[assignment]

    def change_coefficients() -> None:
        loss.coefficients = (1.0, 100.0)

    def change_pos_weight() -> None:
        loss.losses[1].pos_weight = torch.full((8,), 3.0)

    def change_term() -> None:
        loss.losses[1] = DiceLoss()

    gammas = [2.0]
    logits, targets = torch.randn(3, 8), torch.rand(3, 8) < 0.3
    loss = Scheduled() + BCEWithLogitsLoss()
    before = loss(logits, targets)
    for change in (change_coefficients, lambda: gammas.append(1.0), change_pos_weight, change_term):
        change()
        after = loss(logits, targets)
        assert torch.equal(after, CompoundLoss(loss.terms)(logits, targets))
        assert not torch.equal(after, before)
        before = after


def test_changes_after_construction_are_checked() -> None:
    logits, targets = torch.randn(3, 8), torch.rand(3, 8) < 0.3
    loss = ZLPRLoss() + BCEWithLogitsLoss()
    coefficients = [1.0, 0.5]
    loss.coefficients = coefficients  # type: ignore[assignment]
    before = loss(logits, targets)
    coefficients[1] = 100.0
    assert loss(logits, targets) > before
    coefficients[1] = math.nan
    with pytest.raises(ValueError, match="^terms: expected a finite number"):
        loss(logits, targets)
    coefficients[1] = 1.0
    loss.losses[1].reduction = "sum"
    with pytest.raises(ValueError, match="^reduction: expected it on the compound only"):
        loss(logits, targets)


def test_an_exported_sum_can_be_copied() -> None:
    loss = ZLPRLoss() + DiceLoss()
    torch.export.export(loss, (torch.randn(3, 8), torch.rand(3, 8) < 0.3))
    assert copy.deepcopy(loss).values is None


def test_a_moved_sum_frees_its_former_buffers() -> None:
    loss = ZLPRLoss() + BCEWithLogitsLoss(pos_weight=torch.ones(8))
    loss(torch.zeros(3, 8), torch.ones(3, 8))
    former = weakref.ref(loss.losses[1].pos_weight)
    loss.double()
    assert former() is None
