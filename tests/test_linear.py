"""The linear head: for any chunks, it equals the composition of a layer and a loss."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mlloss_cuda
from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    CompoundLoss,
    CSRTargets,
    DecoupledSoftmaxLoss,
    DiceLoss,
    FusedAdam,
    FusedSGD,
    LinearLoss,
    LinearPlan,
    LSEPLoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    SymmetricKLLoss,
    ZLPRLoss,
    _backends,
    linear_loss,
)
from mlloss_cuda.linear import plan as plans
from mlloss_cuda.linear.sweep import Head
from mlloss_cuda.linear.updates import store

from .cases import Case
from .conftest import Backend
from .memory import PeakMemory
from .test_parts import part_of

ROWS, LABELS, FEATURES = 7, 700, 12

# A loss of each kind that is chunked differently: elements, rows, second-pass sums, labels, everything, several passes.
LOSSES = {
    "elements": BCEWithLogitsLoss(),
    "elements, sum": SigmoidFocalLoss(reduction="sum", normalizer=7.0),
    "elements, batchmean": AsymmetricLoss(reduction="batchmean"),
    "rows": ZLPRLoss(),
    "rows, sum": LSEPLoss(reduction="sum"),
    "second-pass sums": DecoupledSoftmaxLoss(),
    "labels": DiceLoss(average="macro"),
    "everything": DiceLoss(average="micro", log=True),
    "one pass": ZLPRLoss() + 0.5 * SigmoidFocalLoss(gamma=3.0) + DiceLoss(),
    "three passes": ZLPRLoss() + 0.5 * DiceLoss(average="macro") + DecoupledSoftmaxLoss(label_smoothing=0.1),
    "elements, mean": BCEWithLogitsLoss() + DiceLoss(average="macro"),
}
# Direction and chunk size; None leaves the choice to the plan.
CUTS = ((None, None), ("labels", 64), ("labels", 333), ("rows", 3))
# Losses that are always cut by labels, of which a chunk of three would be hundreds of chunks.
ACROSS_ROWS = ("labels", "everything", "three passes", "elements, mean")


@contextmanager
def cut(direction: str | None) -> Iterator[None]:
    """Force chunks of rows or of labels, if the loss allows it."""
    before = plans.forced_direction
    plans.forced_direction = direction
    try:
        yield
    finally:
        plans.forced_direction = before


def random_targets(generator: torch.Generator, layout: str, rows: int = ROWS, labels: int = LABELS) -> Any:
    dense = torch.rand((rows, labels), generator=generator) < 0.02
    dense[1] = False
    return CSRTargets.from_dense(dense) if layout == "csr" else dense


class Tensors:
    """New random input, weight and bias."""

    def __init__(self, generator: torch.Generator, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        def leaf(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return values.to(dtype).to(device).requires_grad_()

        self.input, self.weight, self.bias = leaf(ROWS, FEATURES), leaf(LABELS, FEATURES), leaf(LABELS)

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.input, self.weight, self.bias

    def fused(self, loss: Any, targets: Any, **arguments: Any) -> Tensor:
        return linear_loss(self.input, self.weight, targets, loss, linear_bias=self.bias, **arguments)

    def exact(self, loss: Any, targets: Any, **arguments: Any) -> Tensor:
        """Return the composition in float64, which autograd differentiates by the definition."""
        wide = [tensor.double() for tensor in self.all]
        with mlloss_cuda.use_backend("reference"):
            return copy.deepcopy(loss).double()(F.linear(*wide), targets, **arguments)


def gradients(value: Tensor, leaves: Any, grad_output: Tensor | None = None, **options: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves, grad_output, **options)


@pytest.mark.parametrize(("direction", "size"), CUTS)
@pytest.mark.parametrize("layout", ("dense", "csr"))
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_composition(
    backend: Backend, generator: torch.Generator, name: str, layout: str, direction: str | None, size: int | None
) -> None:
    loss, t = LOSSES[name], Tensors(generator, device=backend.device)
    targets = random_targets(generator, layout).to(backend.device)
    if direction == "rows" and name in ACROSS_ROWS:
        size = 130
    with cut(direction):
        value = t.fused(loss, targets, chunk_size=size)
    expected = t.exact(loss, targets)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for number in (1.0, -2.5, 0.125):  # repeated: saved tensors must not be overwritten
        output = torch.full_like(value, number)
        got = gradients(value, t.all, output, retain_graph=True)
        for own, exact in zip(got, gradients(expected, t.all, output, retain_graph=True), strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)
    once = gradients(value, t.all)
    for own, exact in zip(once, gradients(expected, t.all), strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)


def everything(value: Tensor, leaves: Any) -> list[Tensor]:
    return [value.detach(), *gradients(value, leaves)]


def truth(t: Tensors, loss: Any, targets: Any) -> list[Tensor]:
    """Return value and gradients of the same numbers in float64."""
    wide = copy.deepcopy(t)
    wide.input, wide.weight, wide.bias = (leaf.detach().double().requires_grad_() for leaf in t.all)
    return everything(wide.exact(loss, targets), wide.all)


def errors(got: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((g.double() - e).abs().max()) for g, e in zip(got, exact, strict=True)]


def assert_as_accurate(got: list[Tensor], separate: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> None:
    for own, other, e in zip(errors(got, exact), errors(separate, exact), exact, strict=True):
        assert own <= 4 * other + 4 * torch.finfo(dtype).eps * float(e.abs().max())


@pytest.mark.parametrize(("direction", "size"), CUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", ("elements, batchmean", "rows", "everything", "three passes"))
def test_low_precision(
    generator: torch.Generator, name: str, dtype: torch.dtype, direction: str | None, size: int | None
) -> None:
    """Errors are at most four times those of the same products and loss as separate operations."""
    loss, t = LOSSES[name], Tensors(generator, dtype)
    targets = random_targets(generator, "csr")
    with cut(direction):
        value = t.fused(loss, targets, chunk_size=size)
    got, separate = everything(value, t.all), everything(loss(F.linear(*t.all), targets), t.all)
    assert [own.dtype for own in got] == [torch.float32] + [dtype] * 3
    assert_as_accurate(got, separate, truth(t, loss, targets), dtype)


def test_weight_gradients_are_accumulated_in_float32(generator: torch.Generator) -> None:
    """A sum of 256 chunks of one row would stagnate in bfloat16."""
    inputs = (0.4 * torch.rand((256, 4), generator=generator) + 1).bfloat16()
    weight = torch.zeros((64, 4), dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros((256, 64), dtype=torch.bool)
    loss = BCEWithLogitsLoss(reduction="batchmean")
    with cut("rows"):
        value = linear_loss(inputs, weight, targets, loss, chunk_size=1)
    (got,) = gradients(value, weight)
    exact = 0.5 / 256 * inputs.double().sum(0)  # sigmoid(0) is 1/2
    parts = (0.5 / 256 * inputs.double()).bfloat16()
    narrow = torch.zeros(4, dtype=torch.bfloat16)
    for part in parts:
        narrow += part
    assert float((narrow.double() - exact).abs().max()) > 0.02 * float(exact.max())
    assert float((got.double() - exact).abs().max()) < 2**-8 * float(exact.max())


@pytest.mark.parametrize(("direction", "size"), CUTS)
def test_autocast(generator: torch.Generator, direction: str | None, size: int | None) -> None:
    """Inputs are cast as nn.Linear casts them; parameters and their gradients stay float32."""
    t, loss = Tensors(generator, torch.float32), ZLPRLoss()
    targets = random_targets(generator, "csr")
    with torch.autocast("cpu", torch.bfloat16), cut(direction):
        value = t.fused(loss, targets, chunk_size=size)
        composed = loss(F.linear(*t.all), targets)
    got, separate, exact = everything(value, t.all), everything(composed, t.all), truth(t, loss, targets)
    assert [own.dtype for own in got] == [torch.float32] * 4
    assert min(errors(got[1:], exact[1:])) > 1e-5, "the products must be in bfloat16"
    assert_as_accurate(got, separate, exact, torch.bfloat16)


@pytest.mark.parametrize(("direction", "size"), CUTS)
@pytest.mark.parametrize("name", ("elements", "rows", "labels", "one pass"))
def test_weights_smoothing_and_unknown_labels(
    generator: torch.Generator, name: str, direction: str | None, size: int | None
) -> None:
    t = Tensors(generator)
    dense = torch.randint(-1, 2, (ROWS, LABELS), generator=generator, dtype=torch.int8)
    weight = torch.rand(LABELS, generator=generator, dtype=torch.float64)
    weight[::5] = 0
    loss = copy.deepcopy(LOSSES[name])
    loss.weight, loss.ignore_index, loss.label_smoothing = weight, -1, 0.2
    sample_weight = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    sample_weight[2] = 0
    sparse = CSRTargets.from_dense(dense)
    for targets in (dense, sparse):
        with cut(direction):
            value = t.fused(loss, targets, chunk_size=size, sample_weight=sample_weight)
        expected = t.exact(loss, targets, sample_weight=sample_weight)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        for own, exact in zip(gradients(value, t.all), gradients(expected, t.all), strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("direction", "size"), CUTS)
@pytest.mark.parametrize("per_row", (False, True))
def test_learned_threshold_scale_and_bias(
    generator: torch.Generator, per_row: bool, direction: str | None, size: int | None
) -> None:
    t = Tensors(generator)
    shape = (ROWS, 1) if per_row else (LABELS,)
    loss = ZLPRLoss(
        threshold=nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)),
        logit_scale=nn.Parameter(torch.tensor(0.7, dtype=torch.float64)),
        logit_bias=nn.Parameter(torch.randn(LABELS, generator=generator, dtype=torch.float64)),
    )
    leaves = (*t.all, *loss.parameters())
    targets = random_targets(generator, "csr")
    with cut(direction):
        value = t.fused(loss, targets, chunk_size=size)
    with mlloss_cuda.use_backend("reference"):
        expected = loss(F.linear(*t.all), targets)
    for own, exact in zip(gradients(2 * value, leaves), gradients(2 * expected, leaves), strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("direction", "size"), CUTS)
@pytest.mark.parametrize("name", ("rows", "labels", "sum"))
def test_a_loss_for_each_row_or_label(
    generator: torch.Generator, name: str, direction: str | None, size: int | None
) -> None:
    losses = {
        "rows": MultiPositiveCrossEntropyLoss(reduction="none"),
        "labels": DiceLoss(average="macro", reduction="none"),
        "sum": 0.5 * ZLPRLoss() + DecoupledSoftmaxLoss(),
    }
    loss = losses[name]
    loss.reduction = "none"
    t, targets = Tensors(generator), random_targets(generator, "csr")
    with cut(direction):
        value = t.fused(loss, targets, chunk_size=size)
    expected = t.exact(loss, targets)
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    output = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    for again in (True, True, False):
        got = gradients(value, t.all, output, retain_graph=again)
        for own, exact in zip(got, gradients(expected, t.all, output, retain_graph=True), strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)


def test_leading_dimensions(generator: torch.Generator) -> None:
    inputs = torch.randn((2, 3, 5), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn((90, 5), generator=generator, dtype=torch.float64)
    targets = torch.rand((2, 3, 90), generator=generator) < 0.1
    sample_weight = torch.rand((2, 3), generator=generator)
    loss = ZLPRLoss(reduction="none")
    value = linear_loss(inputs, weight, targets, loss, sample_weight=sample_weight)
    expected = loss(F.linear(inputs, weight), targets, sample_weight)
    assert value.shape == (2, 3)
    torch.testing.assert_close(value, expected)
    for own, exact in zip(gradients(value.sum(), inputs), gradients(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(own, exact)


def test_gradients_of_each_tensor_alone(generator: torch.Generator) -> None:
    targets = random_targets(generator, "csr")
    for name in ("elements", "rows"):
        t = Tensors(generator)
        expected = gradients(t.exact(LOSSES[name], targets), t.all)
        for i, leaf in enumerate(t.all):
            for other in t.all:
                other.requires_grad_(other is leaf)
            value = t.fused(LOSSES[name], targets, chunk_size=64)
            torch.testing.assert_close(gradients(value, leaf)[0], expected[i], rtol=1e-8, atol=1e-11)
        with torch.no_grad():
            assert not t.fused(LOSSES[name], targets).requires_grad


def test_shared_weights(generator: torch.Generator) -> None:
    """Gradients of a table that embeds and classifies add up."""
    table = torch.randn((LABELS, FEATURES), generator=generator, dtype=torch.float64, requires_grad=True)
    words = torch.randint(0, LABELS, (ROWS,), generator=generator)
    targets = random_targets(generator, "csr")
    value = linear_loss(F.embedding(words, table), table, targets, ZLPRLoss(), chunk_size=100)
    expected = ZLPRLoss()(F.linear(F.embedding(words, table), table), targets)
    torch.testing.assert_close(gradients(value, table)[0], gradients(expected, table)[0], rtol=1e-8, atol=1e-11)


def test_double_backward_raises(generator: torch.Generator) -> None:
    t, targets = Tensors(generator), random_targets(generator, "csr")
    for loss in (ZLPRLoss(), ZLPRLoss(reduction="none")):
        (gradient,) = gradients(t.fused(loss, targets).sum(), t.input, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            gradient.square().sum().backward()


@pytest.mark.parametrize("loss", (BCEWithLogitsLoss(), ZLPRLoss(), LSEPLoss(reduction="none")), ids=repr)
def test_transforms_and_checkpoints(generator: torch.Generator, loss: Any) -> None:
    t, targets = Tensors(generator), random_targets(generator, "csr")
    expected = gradients(t.exact(loss, targets).sum(), t.all[:2])

    def call(inputs: Tensor, weight: Tensor) -> Tensor:
        return linear_loss(inputs, weight, targets, loss, linear_bias=t.bias, chunk_size=64).sum()

    transformed = torch.func.grad(call, argnums=(0, 1))(t.input.detach(), t.weight.detach())
    checkpointed = gradients(checkpoint(call, *t.all[:2], use_reentrant=False), t.all[:2])
    for got in (transformed, checkpointed):
        for own, exact in zip(got, expected, strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)


def test_values_of_terms(generator: torch.Generator) -> None:
    t, targets = Tensors(generator), random_targets(generator, "csr")
    for name in ("one pass", "three passes"):
        loss, again = copy.deepcopy(LOSSES[name]), copy.deepcopy(LOSSES[name])
        for direction, size in CUTS:
            with cut(direction):
                t.fused(loss, targets, chunk_size=size)
            again(F.linear(*t.all), targets)
            torch.testing.assert_close(loss.values, again.values, rtol=1e-10, atol=1e-12)
            assert not loss.values.requires_grad


def test_values_of_terms_have_the_leading_dimensions(generator: torch.Generator) -> None:
    loss = CompoundLoss([(1.0, ZLPRLoss()), (0.5, DiceLoss())], reduction="none")
    head, inputs = LinearLoss(FEATURES, LABELS, loss), torch.randn((2, 4, FEATURES), generator=generator)
    targets = torch.zeros((2, 4, LABELS))
    value = head(inputs, targets)
    assert value.shape == (2, 4)
    assert loss.values.shape == (2, 4, 2)
    torch.testing.assert_close(loss.values @ torch.tensor([1.0, 0.5]), value.detach())
    head(inputs[0, 0], targets[0, 0])
    assert loss.values.shape == (2,)
    several = CompoundLoss([(1.0, ZLPRLoss()), (1.0, DecoupledSoftmaxLoss()), (1.0, DiceLoss())], reduction="none")
    for weight in (None, torch.rand(2, 4)):
        value = linear_loss(inputs, head.weight, targets, several, sample_weight=weight)
        assert several.values.shape == (2, 4, 3)
        torch.testing.assert_close(several.values.sum(-1), value.detach())


def test_an_update_refuses_bad_rates_and_other_parameters() -> None:
    for rate in (torch.tensor(-1.0), torch.tensor(math.nan)):
        for update in (FusedSGD, FusedAdam):
            with pytest.raises(ValueError, match="^lr: expected a finite number"):
                update(rate)
    update = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(torch.tensor(0.1))).fused_update
    with pytest.raises(ValueError, match="^param_group: expected none"):
        update.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def test_no_rows_and_the_reference(generator: torch.Generator) -> None:
    weight = torch.zeros((5, 3), requires_grad=True)
    nothing = CSRTargets.from_lists([], 5)
    assert linear_loss(torch.zeros(0, 3), weight, nothing, BCEWithLogitsLoss()).isnan()
    value = linear_loss(torch.zeros(0, 3), weight, nothing, ZLPRLoss(reduction="sum"))
    value.backward()
    assert weight.grad is not None
    assert not weight.grad.any()
    t, targets = Tensors(generator), random_targets(generator, "csr")
    with mlloss_cuda.use_backend("reference"):
        torch.testing.assert_close(t.fused(ZLPRLoss(), targets), t.exact(ZLPRLoss(), targets))


def test_gradients_between_padding(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """In-place gradients of logits with padding between rows leave the padding unchanged."""
    logits = torch.randn((9, 1031), generator=generator).to(backend.device)
    targets = random_targets(generator, "csr", *logits.shape).to(backend.device)
    ops, (_, *arguments) = (
        getattr(torch.ops, backend.namespace),
        part_of(served, logits, targets, slice(0, logits.shape[1]), "batchmean"),
    )
    _, coefficients, expected = ops.loss_forward(True, True, logits, *arguments)
    one = torch.tensor(1.0, device=backend.device)
    for size in (1088, 1036):
        memory = torch.full((9, size), 7.0, device=backend.device)
        padded = memory[:, :1031]
        for backward in (False, True):
            padded.copy_(logits)
            if backward:
                ops.loss_backward_(coefficients, one, False, False, False, padded, *arguments)
            else:
                ops.loss_forward_(False, padded, *arguments)
            torch.testing.assert_close(padded, expected, rtol=1e-5, atol=1e-9)
            assert bool((memory[:, 1031:] == 7).all())


# ---- the module ----------------------------------------------------------------------------------


def test_parameters_are_those_of_a_linear_layer(generator: torch.Generator) -> None:
    linear, head = nn.Linear(FEATURES, LABELS), LinearLoss(FEATURES, LABELS, ZLPRLoss())
    head.load_state_dict(linear.state_dict())
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator), random_targets(generator, "csr")
    torch.testing.assert_close(head(inputs, targets), ZLPRLoss()(linear(inputs), targets))
    assert list(LinearLoss(3, 5, ZLPRLoss(), bias=False).state_dict()) == ["weight"]
    assert "in_features=12, num_labels=700, bias=True" in repr(head)


def test_initialisation() -> None:
    """A row's negatives weigh as much as ZLPR's threshold, so the initial loss is about log 2 for any L."""
    head = LinearLoss(256, 5000, ZLPRLoss())
    assert head.bias[0].item() == pytest.approx(-8.517, abs=1e-3)
    assert head.weight.abs().max().item() <= 1 / 16
    rows = CSRTargets.from_lists([[]] * 8, 5000)
    assert 0.5 < head(torch.randn(8, 256), rows).item() < 1.2
    assert not LinearLoss(4, 9, MultiPositiveCrossEntropyLoss()).bias.any()
    assert bool((LinearLoss(4, 9, SquaredHingeLoss()).bias == -1).all())
    assert LinearLoss(4, 9, DiceLoss() + LSEPLoss()).bias[0].item() == pytest.approx(-2.197, abs=1e-3)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # raised by dynamo after a graph break
def test_runs_in_a_compiled_model(generator: torch.Generator) -> None:
    head, targets = LinearLoss(FEATURES, LABELS, ZLPRLoss()), random_targets(generator, "csr")
    inputs = torch.randn((ROWS, FEATURES), generator=generator, requires_grad=True)

    @torch.compile(backend="eager")
    def step(x: Tensor, y: CSRTargets) -> Tensor:
        return head((x * 2).tanh(), y)

    value, expected = step(inputs, targets), head((inputs * 2).tanh(), targets)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, inputs), gradients(expected, inputs))


# ---- the plan ------------------------------------------------------------------------------------


def planned(rows: int, loss: Any, features: int = 768, training: bool = True, **arguments: Any) -> LinearPlan:
    """Return a head's plan, without memory for its weights."""
    return LinearLoss(features, 131073, loss, device="meta", **arguments).plan(rows, training=training)


def test_plan_of_chunks_and_products() -> None:
    bce, zlpr = BCEWithLogitsLoss(), ZLPRLoss()
    assert (planned(16, bce).chunks, planned(16, zlpr).matrix_products) == (1, 3)
    assert (planned(512, bce).by, planned(512, bce).matrix_products) == ("labels", 3)
    narrow = planned(512, zlpr, dtype=torch.bfloat16)  # chunks of rows would need a float32 sum of weight gradients
    assert (narrow.by, narrow.matrix_products, narrow.chunks, narrow.keeps_logits) == ("labels", 4, 3, False)
    assert (planned(512, zlpr).by, planned(512, zlpr).matrix_products) == ("rows", 3)
    assert planned(512, zlpr, training=False).matrix_products == 1
    assert planned(512, DecoupledSoftmaxLoss(), fused_update=FusedSGD()).matrix_products == 5
    small = planned(512, bce, memory_budget=1 << 20)
    assert small.chunk_size * 512 * 4 <= 1 << 20
    assert small.chunk_size % 64 == 0
    assert planned(512, bce, chunk_size=1000).chunks == 132
    assert planned(512, zlpr, chunk_size=100).chunks == 6
    assert str(planned(512, zlpr)).startswith("512 x 131,073 logits of 768 features by rows: 5 chunks of 103 rows")


def test_plan_with_a_fused_update() -> None:
    kept, cut = (planned(rows, ZLPRLoss(), fused_update=FusedSGD()) for rows in (16, 512))
    assert (kept.matrix_products, kept.keeps_logits) == (3, True)
    assert (cut.matrix_products, cut.keeps_logits, cut.by) == (4, False, "labels")
    assert cut.peak_bytes < planned(512, ZLPRLoss()).peak_bytes / 2


def test_largest_head_needs_little_memory_beside_its_weights() -> None:
    for loss in (BCEWithLogitsLoss(), ZLPRLoss()):
        head = LinearLoss(768, 2_812_281, loss, device="meta", dtype=torch.bfloat16, fused_update=FusedSGD())
        assert head.plan(128).peak_bytes < 1 << 30


def test_chunks_cover_the_logits() -> None:
    for direction, size in (("rows", 5), ("labels", 64), ("labels", 700), (None, 17)):
        with cut(direction):
            plan = LinearLoss(8, 700, ZLPRLoss(), chunk_size=size).plan(23)
        seen = torch.zeros((23, 700), dtype=torch.int8)
        for part in plan.parts():
            for labels in plan.blocks(part.labels):
                seen[part.rows, labels] += 1
        assert bool((seen == 1).all())
        assert plan.chunks == len(list(plan.parts()))


def test_leading_dimensions_are_multiples_of_64(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    from mlloss_cuda.linear import sweep

    seen = []

    def watched(out: Tensor, *others: Any) -> None:
        seen.append(out.stride(0))
        linear_into(out, *others)

    linear_into = sweep.linear_into
    monkeypatch.setattr(sweep, "linear_into", watched)
    t, targets = Tensors(generator), random_targets(generator, "csr")
    for direction, size in CUTS:
        with cut(direction):
            t.fused(ZLPRLoss(), targets, chunk_size=size)
    assert seen
    assert all(stride % 64 == 0 for stride in seen)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_memory_beside_the_logits_is_not_read(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """New memory may hold NaN, and some libraries' products read a row's padding and multiply it by 0."""
    new = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda *size, **options: new(*size, **options).fill_(torch.nan))
    seen = []
    logits = Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, part: seen.append(logits(self, part)) or seen[-1])
    head = LinearLoss(48, 100, ZLPRLoss(), dtype=dtype)
    inputs = torch.randn(32, 48, dtype=dtype, requires_grad=True)
    head(inputs, torch.rand(32, 100) < 0.1).backward()
    assert seen[0].stride() == (128, 1)
    padding = torch.as_strided(seen[0], (32, 28), (128, 1), seen[0].storage_offset() + 100)
    assert int(padding.isnan().sum()) == 0
    assert all(bool(x.grad.isfinite().all()) for x in (inputs, *head.parameters()))


@pytest.mark.parametrize(
    ("dtype", "loss", "direction", "update"),
    (
        (torch.float32, BCEWithLogitsLoss(), "labels", None),
        (torch.float32, ZLPRLoss(), "rows", None),
        (torch.bfloat16, ZLPRLoss(), "labels", None),
        (torch.bfloat16, ZLPRLoss(), None, FusedSGD(momentum=0.9)),
    ),
    ids=("elements by labels", "rows by rows", "bfloat16 by labels", "bfloat16, fused update"),
)
def test_peak_memory_is_as_planned(
    dtype: torch.dtype, loss: Any, direction: str | None, update: Any, generator: torch.Generator
) -> None:
    """The peak memory of a step's tensors is at most the planned peak, and most of it."""
    rows, labels, features = 128, 100_003, 64
    with cut(direction):
        head = LinearLoss(
            features, labels, loss, dtype=dtype, memory_budget=8 << 20, fused_update=copy.deepcopy(update)
        )
        inputs = torch.randn((rows, features), generator=generator).to(dtype).requires_grad_()
        targets = CSRTargets.from_lists([[i] for i in range(rows)], labels)
        head(inputs, targets).backward()  # the first step makes the update's state
        inputs.grad = head.weight.grad = head.bias.grad = None
        with PeakMemory() as memory:
            head(inputs, targets).backward()
        planned = head.plan(rows).peak_bytes
    assert 0.85 * planned <= memory.peak <= 1.001 * planned


def test_peak_memory_counts_live_tensors() -> None:
    with PeakMemory() as memory:
        first = torch.zeros(1000)
        second = first + 1
        view = second[3:]
        del second
        assert (memory.live, memory.peak) == (8000, 8000)
        first.add_(1)
        del view
        assert (memory.live, memory.peak) == (4000, 8000)


# ---- updates inside backward ---------------------------------------------------------------------

UPDATES = {
    "SGD": (lambda: FusedSGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        lambda: FusedSGD(0.1, momentum=0.9, dampening=0.3),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3),
    ),
    "Nesterov": (
        lambda: FusedSGD(0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "Adam": (
        lambda: FusedAdam(0.1, (0.8, 0.99), 1e-6, 0.01, state_dtype=torch.float32),
        lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.99), 1e-6, 0.01),
    ),
    "AdamW": (
        lambda: FusedAdam(0.1, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("size", (None, 64))
@pytest.mark.parametrize("loss", (BCEWithLogitsLoss(reduction="batchmean"), ZLPRLoss()), ids=("elements", "rows"))
@pytest.mark.parametrize("name", UPDATES)
def test_updates_equal_torch_optimizers(generator: torch.Generator, name: str, loss: Any, size: int | None) -> None:
    """Weights, bias and the input's gradient equal torch.optim's in float64, with a grad_output."""
    make, other = UPDATES[name]
    head = LinearLoss(FEATURES, LABELS, loss, fused_update=make(), chunk_size=size, dtype=torch.float64)
    plain = nn.Linear(FEATURES, LABELS, dtype=torch.float64)
    plain.load_state_dict(head.state_dict())
    optimizer = other(plain.parameters())
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 2, 0.5) for each in (head.fused_update, optimizer)]
    targets = random_targets(generator, "csr")
    for _ in range(5):
        inputs = torch.randn((2, ROWS, FEATURES), generator=generator, dtype=torch.float64)[:1].expand(2, -1, -1)
        own, its = (each.clone().requires_grad_() for each in inputs)
        (1.7 * head(own, targets)).backward()
        head.fused_update.step()  # does nothing: backward has updated the weights
        optimizer.zero_grad()
        (1.7 * loss(plain(its), targets)).backward()
        optimizer.step()
        torch.testing.assert_close(own.grad, its.grad, rtol=1e-7, atol=1e-10)
        for scheduler in schedulers:
            scheduler.step()
    assert head.weight.grad is None
    assert head.bias.grad is None
    torch.testing.assert_close(head.weight, plain.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.bias, plain.bias, rtol=1e-8, atol=1e-10)


def progress(rounding: str, update: type, generator: torch.Generator) -> tuple[float, float]:
    """Return how far bfloat16 weights move along the path of float32 weights, and their distance from it."""
    inputs, targets = torch.randn((8, 32), generator=generator), random_targets(generator, "csr", 8, 200)
    loss = BCEWithLogitsLoss(reduction="batchmean")
    heads = [
        LinearLoss(32, 200, loss, fused_update=update(lr=1e-4, rounding=rounding, seed=3), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    heads[0].load_state_dict(heads[1].state_dict())
    begin = heads[0].weight.detach().clone()
    for _ in range(40):
        for head in heads:
            head(inputs.to(head.weight.dtype), targets).backward()
    wide, narrow = (head.weight.detach().float() - begin for head in heads)
    state = heads[1].fused_update.state[heads[1].weight]
    narrow += state.get("compensation", torch.zeros(())).float()
    return float((wide * narrow).sum() / wide.square().sum()), float((wide - narrow).norm() / wide.norm())


@pytest.mark.parametrize("update", (FusedSGD, FusedAdam))
def test_bfloat16_weights_follow_float32_ones(update: type, generator: torch.Generator) -> None:
    share, distance = progress("kahan", update, generator)
    assert share == pytest.approx(1, abs=0.05)
    assert distance < 0.1
    share, _ = progress("stochastic", update, generator)
    assert share == pytest.approx(1, abs=0.15)
    share, _ = progress("nearest", update, generator)
    assert share < 0.6, "with rounding to nearest, steps below half a rounding should be lost"


def test_stochastic_rounding(generator: torch.Generator) -> None:
    """Rounding goes to a neighbour, and is right on average; bfloat16 numbers, infinities and NaN stay the same."""
    value = 1 + 2**-7 * torch.rand(16, generator=generator).repeat(4096, 1)
    rounded = torch.empty(value.shape, dtype=torch.bfloat16)
    store(rounded, value.clone(), torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator))))
    below = value.view(torch.int32).bitwise_and(-(1 << 16)).view(torch.float32)
    assert bool(((rounded.float() == below) | (rounded.float() == below + 2**-7)).all())
    torch.testing.assert_close(rounded.double().mean(0), value.double()[0], rtol=0, atol=6 * 2**-7 / 2 / 64)
    special = torch.tensor([0.0, -1.5, torch.inf, -torch.inf, torch.nan, 2.0**-130])
    kept = torch.empty(6, dtype=torch.bfloat16)
    store(kept, special.clone(), torch.Generator())
    torch.testing.assert_close(kept.float()[:5], special[:5], equal_nan=True, rtol=0, atol=0)
    patterns = torch.tensor([0x7FFFFFFF, -1, 0x7F800001, -(1 << 22)], dtype=torch.int32).view(torch.float32)
    many = torch.empty((4096, 4), dtype=torch.bfloat16)
    store(many, patterns.repeat(4096, 1), torch.Generator())
    assert bool(many.isnan().all()), "every NaN stays NaN, whatever its bits are"


def stepped(seed: int | None, generator_seed: int = 0, steps: int = 3) -> LinearLoss:
    torch.manual_seed(5)
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.01, seed=seed), dtype=torch.bfloat16)
    run(head, generator_seed, steps)
    return head


def run(head: LinearLoss, seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn((ROWS, FEATURES), generator=generator).bfloat16()
        head(inputs, random_targets(generator, "csr")).backward()


def test_updates_repeat_with_the_same_seed() -> None:
    assert torch.equal(stepped(1).weight, stepped(1).weight)
    assert not torch.equal(stepped(1).weight, stepped(2).weight)
    assert torch.equal(stepped(None).weight, stepped(None).weight), "without a seed, torch's generator seeds the update"


def test_state_is_restored() -> None:
    head = stepped(1)
    memory = io.BytesIO()
    torch.save({"head": head.state_dict(), "update": head.fused_update.state_dict()}, memory)
    memory.seek(0)
    saved = torch.load(memory, weights_only=True)
    other = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.5), dtype=torch.bfloat16)
    other.load_state_dict(saved["head"])
    other.fused_update.load_state_dict(saved["update"])
    twin = copy.deepcopy(head)
    for each in (head, other, twin):
        run(each, 1, 2)
    assert torch.equal(head.weight, other.weight)
    assert torch.equal(head.weight, twin.weight)
    wide = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.5))
    wide.fused_update.load_state_dict(saved["update"])
    run_state = wide.fused_update.state[wide.weight]
    assert run_state["exp_avg"].dtype == torch.bfloat16, "the state must keep its own dtype, not the weights'"


def test_moments_wider_than_the_weights_are_restored() -> None:
    head = LinearLoss(
        FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.1, state_dtype=torch.float32), dtype=torch.bfloat16
    )
    run(head, 0, 2)
    update = head.fused_update
    before = {name: update.state[head.weight][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    update.load_state_dict(copy.deepcopy(update.state_dict()))
    for name, expected in before.items():
        assert torch.equal(update.state[head.weight][name], expected)


def test_state_of_other_options_is_refused() -> None:
    """The tensors of a checkpoint are read before its options, so the head must have room for the same moments."""
    saved, plain, kahan = (
        LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=update, dtype=torch.bfloat16)
        for update in (FusedSGD(0.1, momentum=0.9), FusedSGD(0.3), FusedSGD(0.3, momentum=0.9, rounding="kahan"))
    )
    run(saved, 0, 1)
    for head in (plain, kahan):
        with pytest.raises(ValueError, match="^fused_update: expected the options of the checkpoint"):
            head.checkpoint().load_state_dict(saved.checkpoint().state_dict())
        assert head.fused_update.param_groups[0]["lr"] == 0.3


def test_the_state_of_a_torch_optimizer_continues(generator: torch.Generator) -> None:
    head = LinearLoss(
        FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.1, state_dtype=torch.float32), dtype=torch.float64
    )
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator).double(), random_targets(generator, "csr")
    layer = nn.Linear(FEATURES, LABELS, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        ZLPRLoss()(layer(inputs), targets).backward()
        optimizer.step()

    step()
    head.load_state_dict(layer.state_dict(), strict=False)
    head.fused_update.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step()
    head(inputs, targets).backward()
    torch.testing.assert_close(head.weight, layer.weight)
    torch.testing.assert_close(head.bias, layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, amsgrad=True)
    with pytest.raises(ValueError, match="^amsgrad: expected False"):
        head.fused_update.load_state_dict(optimizer.state_dict())


def test_an_update_follows_its_head_to_another_dtype(generator: torch.Generator) -> None:
    head = stepped(1)
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator), random_targets(generator, "csr")
    head.double()
    head(inputs.double(), targets).backward()
    state = head.fused_update.state[head.weight]
    assert state["exp_avg"].dtype == torch.float64
    assert bool(head.weight.isfinite().all())


def test_an_update_follows_replaced_parameters(generator: torch.Generator) -> None:
    """Initialisation on meta, and loading by assignment, make new parameters."""
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator), random_targets(generator, "csr")
    update = partial(FusedSGD, 0.1, momentum=0.9)
    expected = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=update())
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=update(), device="meta").to_empty(device="cpu")
    head.load_state_dict(copy.deepcopy(expected.state_dict()))
    for assign in (False, True):
        for each in (expected, head):
            each(inputs, targets).backward()
        if assign:
            head.load_state_dict(copy.deepcopy(head.state_dict()), assign=True)
            for each in (expected, head):
                each(inputs, targets).backward()
        torch.testing.assert_close(head.weight, expected.weight)
        torch.testing.assert_close(head.bias, expected.bias)


@pytest.mark.parametrize("learns", (False, True))
def test_an_empty_batch_is_no_step(learns: bool) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(reduction="sum"), fused_update=FusedSGD(0.1, weight_decay=0.5))
    before = copy.deepcopy(head.state_dict())
    inputs = torch.zeros(0, FEATURES, requires_grad=learns)
    head(inputs, torch.zeros(0, LABELS)).backward()
    assert head.weight.grad is None
    assert head.fused_update.state[head.weight].get("step", 0) == 0
    assert all(torch.equal(tensor, head.state_dict()[name]) for name, tensor in before.items())
    assert (inputs.grad is not None) == learns


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_is_not_stepped(generator: torch.Generator, frozen: str) -> None:
    """A frozen parameter keeps its values. The other one steps as with torch's optimizer, and counts its own steps."""
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedAdam(0.1), dtype=torch.float64)
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator).double(), random_targets(generator, "csr")
    layer = nn.Linear(FEATURES, LABELS, dtype=torch.float64)
    layer.load_state_dict({name: getattr(head, name).detach().clone() for name in ("weight", "bias")})
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for steps in (1, 2):
        for module in (head, layer):
            getattr(module, frozen).requires_grad_(steps == 2)
        for _ in range(steps):
            head(inputs, targets).backward()
            optimizer.zero_grad()
            ZLPRLoss()(layer(inputs), targets).backward()
            optimizer.step()
    torch.testing.assert_close(head.weight, layer.weight)
    torch.testing.assert_close(head.bias, layer.bias)


def test_a_changed_bias_is_noticed(generator: torch.Generator) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1))
    value = head(torch.randn((ROWS, FEATURES), generator=generator), random_targets(generator, "csr"))
    with torch.no_grad():
        head.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="^fused_update: the weights have changed since this forward"):
        value.backward()


def test_evaluation_needs_nothing_of_the_update(generator: torch.Generator) -> None:
    """A call under no_grad is followed by no step, so the conditions of a step are not checked."""
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1))
    inputs, targets = torch.randn((ROWS, FEATURES), generator=generator), random_targets(generator, "csr")
    expected = ZLPRLoss()(F.linear(inputs, head.weight, head.bias), targets)
    with torch.no_grad():
        with mlloss_cuda.use_backend("reference"):
            torch.testing.assert_close(head(inputs, targets), expected.detach())
        with torch.autocast("cpu", torch.float16):
            torch.testing.assert_close(head(inputs, targets).float(), expected.detach(), rtol=0.02, atol=0.02)


def test_one_backward_per_forward(generator: torch.Generator) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1))
    inputs = torch.randn((ROWS, FEATURES), generator=generator, requires_grad=True)
    targets = random_targets(generator, "csr")
    value = head(inputs, targets)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="^fused_update: the weights have changed since this forward"):
        value.backward()
    with pytest.raises(RuntimeError, match="^fused_update: the weights have changed since this forward"):
        (head(inputs, targets) + head(inputs, targets)).backward()


def test_no_update_without_gradients(generator: torch.Generator) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1))
    before = head.weight.detach().clone()
    inputs = torch.randn((ROWS, FEATURES), generator=generator, requires_grad=True)
    targets = random_targets(generator, "csr")
    with torch.no_grad():
        head(inputs, targets)
    head(inputs, targets)
    head(inputs[:0], CSRTargets.from_lists([], LABELS))
    assert torch.equal(head.weight, before)
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    head(inputs, targets).backward()
    assert torch.equal(head.weight, before)
    assert inputs.grad is not None


def test_ordinary_optimizer_for_the_other_parameters(generator: torch.Generator) -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(5, FEATURES)})
    model["head"] = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)  # the head's parameters have no gradients for it
    inputs, targets = torch.randn((ROWS, 5), generator=generator), random_targets(generator, "csr")
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = model["head"](model["encoder"](inputs), targets)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.3


# ---- prediction ----------------------------------------------------------------------------------


def whole_numbers(generator: torch.Generator, head: LinearLoss, rows: int = ROWS) -> Tensor:
    """Set weights and return inputs whose products are exact in any order, and often equal."""
    with torch.no_grad():
        head.weight.copy_(torch.randint(-1, 2, head.weight.shape, generator=generator))
        if head.bias is not None:
            head.bias.copy_(torch.randint(-1, 2, head.bias.shape, generator=generator))
    return torch.randint(-1, 2, (rows, head.in_features), generator=generator).to(head.weight.dtype)


def best(logits: Tensor, k: int) -> Tensor:
    """Return the best labels by logit, and among equal logits by number."""
    labels = torch.arange(logits.shape[1])
    return (logits.double() * 2 * logits.shape[1] - labels).topk(k).indices


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("budget", (None, 1 << 12))
@pytest.mark.parametrize("k", (1, 5, 100, LABELS))
def test_topk(generator: torch.Generator, k: int, budget: int | None, dtype: torch.dtype) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), memory_budget=budget, dtype=dtype)
    inputs = whole_numbers(generator, head)
    logits = F.linear(inputs, head.weight, head.bias).detach()
    found = head.topk(inputs, k)
    assert torch.equal(found.values, logits.topk(k).values)
    assert torch.equal(found.indices, best(logits, k))


@pytest.mark.parametrize("budget", (None, 1 << 12))
def test_topk_excludes_labels(generator: torch.Generator, budget: int | None) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), bias=False, memory_budget=budget)
    inputs = whole_numbers(generator, head)
    seen = torch.rand((ROWS, LABELS), generator=generator) < 0.5
    seen[0], seen[1] = True, False
    seen[2, 3:] = True
    logits = F.linear(inputs, head.weight).masked_fill(seen, -torch.inf).detach()
    exclude = CSRTargets.from_dense(seen)
    found = head.topk(inputs, 40, exclude=exclude.pad_to(exclude.col_indices.shape[0] + 9))
    count = (~seen).sum(1).clamp(max=40)
    for row, number in enumerate(count.tolist()):
        assert torch.equal(found.indices[row, :number], best(logits[row : row + 1], 40)[0, :number])
        assert bool((found.indices[row, number:] == -1).all())
        assert bool((found.values[row, number:] == -torch.inf).all())
    assert not seen.gather(1, found.indices.clamp(min=0))[found.indices >= 0].any()


def test_topk_without_rows() -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss())
    exclude = CSRTargets.from_lists([], LABELS).pad_to(4)
    assert head.topk(torch.zeros(0, FEATURES), 3, exclude=exclude).indices.shape == (0, 3)


def test_topk_of_unknown_and_infinite_logits(generator: torch.Generator) -> None:
    head = LinearLoss(1, 200, ZLPRLoss(), memory_budget=600)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.arange(200).float())
        head.bias[7], head.bias[150], head.bias[:3] = torch.nan, torch.inf, -torch.inf
    found = head.topk(torch.ones(1, 1), 3)
    assert found.indices.tolist() == [[7, 150, 199]], "NaN comes first, as in torch.topk"
    assert head.topk(torch.ones(1, 1), 200).indices[0, -4:].tolist() == [3, -1, -1, -1]


def test_topk_compiles(generator: torch.Generator) -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), memory_budget=1 << 13)
    inputs = whole_numbers(generator, head)
    exclude = random_targets(generator, "csr")
    compiled = torch.compile(head.topk, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(inputs, 5).indices, head.topk(inputs, 5).indices)
    assert torch.equal(compiled(inputs, 5, exclude).indices, head.topk(inputs, 5, exclude).indices)
    shaped = inputs[:6].reshape(2, 3, FEATURES)
    assert torch.equal(head.topk(shaped, 5).indices.reshape(6, 5), head.topk(inputs[:6], 5).indices)


# ---- bad input -----------------------------------------------------------------------------------

X, W, B, Y = torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3), torch.zeros(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("error", "argument", "given"),
    [
        (TypeError, "input", {"input": [1.0]}),
        (TypeError, "input", {"input": torch.zeros(2, 4, dtype=torch.int64)}),
        (ValueError, "input", {"input": torch.zeros(2, 5)}),
        (ValueError, "input", {"input": torch.tensor(1.0)}),
        (TypeError, "linear_weight", {"linear_weight": None}),
        (TypeError, "linear_weight", {"linear_weight": W.bfloat16()}),
        (TypeError, "linear_weight", {"linear_weight": W.to_sparse()}),
        (ValueError, "linear_weight", {"linear_weight": torch.zeros(3)}),
        (ValueError, "linear_weight", {"linear_weight": W.to("meta")}),
        (TypeError, "linear_bias", {"linear_bias": 1.0}),
        (TypeError, "linear_bias", {"linear_bias": B.double()}),
        (ValueError, "linear_bias", {"linear_bias": torch.zeros(4)}),
        (ValueError, "targets", {"targets": torch.zeros(2, 4)}),
        (ValueError, "targets", {"targets": CSRTargets.from_lists([[0]], 3)}),
        (TypeError, "loss", {"loss": nn.BCEWithLogitsLoss()}),
        (TypeError, "loss", {"loss": mlloss_cuda.zlpr_loss}),
        (TypeError, "loss", {"loss": SymmetricKLLoss()}),
        (ValueError, "loss", {"loss": SigmoidFocalLoss(rescale=True)}),
        (ValueError, "loss", {"loss": BCEWithLogitsLoss(reduction="none")}),
        (ValueError, "weight", {"loss": ZLPRLoss(weight=torch.ones(4))}),
        (ValueError, "sample_weight", {"sample_weight": torch.ones(3)}),
        (TypeError, "chunk_size", {"chunk_size": 1.5}),
        (ValueError, "chunk_size", {"chunk_size": 0}),
        (TypeError, "memory_budget", {"memory_budget": "1 GiB"}),
        (ValueError, "memory_budget", {"memory_budget": -1}),
    ],
)
def test_bad_arguments(error: type[Exception], argument: str, given: dict[str, Any]) -> None:
    arguments = {"input": X, "linear_weight": W, "targets": Y, "loss": ZLPRLoss(), **given}
    with pytest.raises(error, match=f"^{argument}: expected"):
        linear_loss(**arguments)


@pytest.mark.parametrize(
    ("error", "argument", "make"),
    [
        (TypeError, "in_features", lambda: LinearLoss("4", 3, ZLPRLoss())),
        (ValueError, "num_labels", lambda: LinearLoss(4, 0, ZLPRLoss())),
        (TypeError, "loss", lambda: LinearLoss(4, 3, "zlpr")),
        (TypeError, "bias", lambda: LinearLoss(4, 3, ZLPRLoss(), bias=None)),
        (ValueError, "memory_budget", lambda: LinearLoss(4, 3, ZLPRLoss(), memory_budget=0)),
        (TypeError, "fused_update", lambda: LinearLoss(4, 3, ZLPRLoss(), fused_update="sgd")),
        (TypeError, "fused_update", lambda: LinearLoss(4, 3, ZLPRLoss(), fused_update=FusedSGD(), dtype=torch.half)),
        (ValueError, "rows", lambda: LinearLoss(4, 3, ZLPRLoss()).plan(0)),
        (ValueError, "k", lambda: LinearLoss(4, 3, ZLPRLoss()).topk(X, 4)),
        (ValueError, "k", lambda: LinearLoss(4, 3, ZLPRLoss()).topk(X, 0)),
        (TypeError, "k", lambda: LinearLoss(4, 3, ZLPRLoss()).topk(X, 1.0)),
        (TypeError, "exclude", lambda: LinearLoss(4, 3, ZLPRLoss()).topk(X, 1, exclude=Y)),
        (ValueError, "exclude", lambda: LinearLoss(4, 3, ZLPRLoss()).topk(X, 1, CSRTargets.from_lists([[0]], 3))),
        (ValueError, "lr", lambda: FusedSGD(-1.0)),
        (TypeError, "lr", lambda: FusedAdam("1")),
        (ValueError, "momentum", lambda: FusedSGD(momentum=-0.1)),
        (ValueError, "nesterov", lambda: FusedSGD(nesterov=True)),
        (ValueError, "weight_decay", lambda: FusedSGD(weight_decay=-1.0)),
        (TypeError, "betas", lambda: FusedAdam(betas=0.9)),
        (ValueError, "betas", lambda: FusedAdam(betas=(0.9, 1.0))),
        (ValueError, "eps", lambda: FusedAdam(eps=-1.0)),
        (ValueError, "state_dtype", lambda: FusedAdam(state_dtype=torch.half)),
        (ValueError, "rounding", lambda: FusedSGD(rounding="up")),
        (ValueError, "seed", lambda: FusedSGD(seed=-1)),
    ],
)
def test_bad_arguments_of_modules(error: type[Exception], argument: str, make: Any) -> None:
    with pytest.raises(error, match=f"^{argument}: expected"):
        make()


def test_values_of_rows_need_one_pass_for_elements(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """A sum for which the device has no single pass has an element-wise pass, which has no values of rows."""
    loss = mlloss_cuda.CompoundLoss((ZLPRLoss() + BCEWithLogitsLoss()).terms, reduction="none")
    inputs, weight = torch.randn((ROWS, FEATURES), generator=generator), torch.zeros(LABELS, FEATURES)
    targets = random_targets(generator, "csr")
    assert linear_loss(inputs, weight, targets, loss).shape == (ROWS,)
    monkeypatch.setattr(mlloss_cuda._backends, "one_pass", lambda *arguments: None)
    loss = mlloss_cuda.CompoundLoss(loss.terms, reduction="none")
    with pytest.raises(ValueError, match="^loss: expected a reduction other than 'none'"):
        linear_loss(inputs, weight, targets, loss)


def test_unsupported_updates_raise() -> None:
    update = FusedSGD(0.1)
    head = LinearLoss(4, 3, ZLPRLoss(), fused_update=update)
    with pytest.raises(ValueError, match="^fused_update: expected a separate update for each head"):
        LinearLoss(4, 3, ZLPRLoss(), fused_update=update)
    with torch.autocast("cpu", torch.float16), pytest.raises(TypeError, match="^fused_update: expected products in"):
        head(X, Y)
    with mlloss_cuda.use_backend("reference"), pytest.raises(ValueError, match="^fused_update: expected a backend"):
        head(X, Y)
    head.weight = nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="^fused_update: expected the head's own parameters"):
        head(X, Y)


def test_losses_without_parts_take_whole_rows(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """On an engine without ops over parts, chunks are whole rows, or there is one chunk."""
    monkeypatch.setattr(_backends, "takes_parts", lambda backend: False)
    t, targets = Tensors(generator), random_targets(generator, "csr")
    for name, size in (("rows", 2), ("elements", 3), ("everything", 64), ("labels", None)):
        value, expected = t.fused(LOSSES[name], targets, chunk_size=size), t.exact(LOSSES[name], targets)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        for own, exact in zip(gradients(value, t.all), gradients(expected, t.all), strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-11)
