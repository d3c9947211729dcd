"""The package as training loops call it, without other packages. tests/training runs the loops of those packages."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader

import mlloss_cuda
from mlloss_cuda import (
    BCEWithLogitsLoss,
    CSRTargets,
    DiceLoss,
    FusedAdam,
    FusedSGD,
    LinearLoss,
    SigmoidFocalLoss,
    ZLPRLoss,
    zlpr_loss,
)
from mlloss_cuda.compat.bert4torch import SparseMultilabelCategoricalCrossentropy
from mlloss_cuda.data import csr_collate

from .conftest import Backend
from .inputs import random_positives

SAMPLES, ROWS, LABELS, FEATURES = 5, 3, 7, 6


def sparse() -> CSRTargets:
    return CSRTargets.from_lists([[1], [2, 3], [], [0, 6], [4]], LABELS)


# ---- targets in batches --------------------------------------------------------------------------


def test_targets_are_immutable() -> None:
    targets = sparse()
    with pytest.raises(AttributeError, match="CSRTargets are immutable"):
        targets.num_labels = 3
    with pytest.raises(AttributeError, match="CSRTargets are immutable"):
        del targets.values
    for twin in (copy.deepcopy(targets), pickle.loads(pickle.dumps(targets))):
        assert torch.equal(twin.to_dense(), targets.to_dense())


@pytest.mark.parametrize("value", (-100, -1, 0, 1, 0.25))
def test_ne_counts_like_dense_targets(value: float) -> None:
    weighed = CSRTargets(
        torch.tensor([0, 2, 2, 5]), torch.tensor([0, 3, 1, 2, 4]), 6, torch.tensor([1, -1.0, -100, 0.25, 0])
    )
    for targets in (weighed.pad_to(9), sparse(), sparse().pad_to(20), CSRTargets.from_lists([], 4)):
        found = targets.ne(value).sum()
        assert found.dtype == torch.int64
        assert found.item() == targets.to_dense().float().ne(value).sum().item()


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64))
def test_from_padded_has_static_shapes(dtype: torch.dtype) -> None:
    padded = torch.tensor([[4, 0, -1, 4], [-1, -1, -1, -1], [2, 1, 0, 3]], dtype=dtype)
    targets = CSRTargets.from_padded(padded, 5)
    assert targets.col_indices.shape == (12,)
    assert targets.crow_indices.tolist() == [0, 2, 2, 6]
    assert targets.col_indices[:6].tolist() == [0, 4, 0, 1, 2, 3]
    assert CSRTargets.from_padded(padded.clamp(min=0), 5, padding=0).col_indices[:5].tolist() == [4, 1, 2, 3, 0]
    assert CSRTargets.from_padded(padded[:, :0], 5).to_dense().shape == (3, 5)


def test_dicts_are_collated() -> None:
    samples = [{"ids": torch.tensor([1, i]), "weight": float(i), "labels": [i, 0]} for i in range(4)]
    batch = next(iter(DataLoader(samples, 4, collate_fn=partial(csr_collate, num_labels=5))))  # type: ignore[arg-type]
    assert list(batch) == ["ids", "weight", "labels"]
    assert batch["ids"].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert batch["labels"].to_dense().int().sum(0).tolist() == [4, 1, 1, 1, 0]
    own = [{"x": 1.0, "tags": CSRTargets.from_lists([[2]], 5)}] * 2
    assert len(csr_collate(own, labels="tags")["tags"]) == 2
    assert list(csr_collate([{"labels": [1]}], 5)) == ["labels"]
    joined = csr_collate(samples, 5, collate=lambda rest: {"seen": [sorted(each) for each in rest]})
    assert joined["seen"] == [["ids", "weight"]] * 4
    pairs = csr_collate([([1, 2], [0])], 5, collate=lambda rest: rest)
    assert pairs[0] == [[1, 2]]


@pytest.mark.parametrize(
    "error,samples",
    (
        (ValueError, [{"ids": 1}]),
        (TypeError, [{"labels": [1]}, (1.0, [1])]),
        (TypeError, ["text"]),
        (TypeError, [(1.0, [1], 2)]),
    ),
    ids=("no labels", "two kinds", "text", "three"),
)
def test_bad_samples(error: type[Exception], samples: list[Any]) -> None:
    with pytest.raises(error, match="samples: expected"):
        csr_collate(samples, 5)


# ---- compiled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_zero", (False, True))
def test_padded_labels_compile(generator: torch.Generator, mask_zero: bool) -> None:
    logits = torch.randn((2, LABELS), generator=generator, requires_grad=True)
    labels = torch.tensor([[3, 1, 0], [2, 2, 4]])
    loss = SparseMultilabelCategoricalCrossentropy(mask_zero)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))
    found = torch.autograd.grad(compiled(logits, labels).sum(), logits)
    torch.testing.assert_close(found, torch.autograd.grad(loss(logits, labels).sum(), logits))


def test_fullgraph_of_a_head_raises_with_advice() -> None:
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss())
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="compile the encoder and call the head outside") as caught:
        compiled(torch.zeros(5, FEATURES), sparse())
    assert "file an issue" not in str(caught.value)


# ---- loss scales ---------------------------------------------------------------------------------


def step_of(update: Any, scaler: torch.amp.GradScaler | None, factor: float = 1.0) -> tuple[LinearLoss, nn.Linear]:
    """Return a float32 head and an encoder under float16 autocast, after one step."""
    torch.manual_seed(5)
    encoder = nn.Linear(4, FEATURES)
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=update)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.float16):
        features = encoder(torch.randn(5, 4) * factor)
    if scaler is None:  # the same inputs, without a loss scale
        features = features.float().detach().requires_grad_()
        head(features, sparse()).backward()
        return head, encoder
    scaler.scale(head(features.float(), sparse())).backward()
    for each in (head.fused_update, optimizer):
        scaler.step(each)  # type: ignore[arg-type]
    scaler.update()
    return head, encoder


@pytest.mark.parametrize(
    "make", (partial(FusedSGD, 0.1, momentum=0.9), partial(FusedAdam, 0.01, state_dtype=torch.float32))
)
def test_head_unscales_its_gradients(make: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaled, encoder = step_of(make(grad_scaler=scaler), scaler)
    plain, _ = step_of(make(), None)
    torch.testing.assert_close(scaled.weight, plain.weight)
    torch.testing.assert_close(scaled.bias, plain.bias)
    assert 0 < encoder.weight.grad.abs().max() < 1, "its own optimizer unscales it"  # type: ignore[union-attr]
    assert scaler.get_scale() == 2.0**16


@pytest.mark.parametrize("budget", (None, 1))
def test_a_step_with_infinities_is_skipped(budget: int | None) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    update = FusedSGD(0.1, momentum=0.9, grad_scaler=scaler)
    head, _ = step_of(update, scaler, factor=1e30)
    before, _ = step_of(FusedSGD(0.0), None)
    assert torch.equal(head.weight, before.weight)
    assert not update.state, "a skipped step must not be counted"
    assert scaler.get_scale() == 2.0**15
    # An infinite incoming gradient, and a row that is NaN because of its targets.
    head.memory_budget = budget
    features = torch.zeros((1, FEATURES), requires_grad=True)
    (head(features, torch.zeros(1, LABELS)) * float("inf")).backward()
    head(features, torch.full((1, LABELS), -3.0)).backward()
    assert torch.equal(head.weight, before.weight)


def test_missing_grad_scaler_raises() -> None:
    scaler = torch.amp.GradScaler("cpu")
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1))
    before = head.weight.detach().clone()
    half = torch.zeros((5, FEATURES), dtype=torch.float16, requires_grad=True)
    for features in (half.float(), nn.functional.layer_norm(half.float() * 2, (FEATURES,))):
        with pytest.raises(ValueError, match="^fused_update: expected a grad_scaler"):
            head(features, sparse())
    assert torch.equal(head.weight, before)
    head(half.detach().float(), sparse()).backward()  # the encoder does not learn
    scaler.scale(head(torch.zeros(5, FEATURES), sparse())).backward()
    with pytest.raises(RuntimeError, match="^fused_update: backward has updated the weights with gradients that"):
        scaler.step(head.fused_update)  # type: ignore[arg-type]
    head.fused_update.grad_scaler = torch.amp.GradScaler("cpu", enabled=False)  # type: ignore[union-attr]
    head(half.float(), sparse()).backward()
    with pytest.raises(TypeError, match="^grad_scaler: expected a"):
        FusedSGD(grad_scaler=True)  # type: ignore[arg-type]


def test_grad_scaler_survives_load_state_dict() -> None:
    scaler = torch.amp.GradScaler("cpu")
    update = LinearLoss(FEATURES, LABELS, ZLPRLoss(), fused_update=FusedSGD(0.1, grad_scaler=scaler)).fused_update
    assert update is not None
    update.load_state_dict(update.state_dict())
    assert update.grad_scaler is scaler
    assert copy.deepcopy(update).grad_scaler is None


# ---- a gradient for each sample ------------------------------------------------------------------


def assert_samples_match_the_reference(loss: Any, *arguments: Tensor, **options: Any) -> None:
    """Assert that the gradient and value of each sample equal the reference's."""
    for f in (vmap(grad(loss), **options), vmap(loss, **options)):
        found = f(*arguments)
        with mlloss_cuda.use_backend("reference"):
            torch.testing.assert_close(found, f(*arguments), equal_nan=True)


@pytest.mark.parametrize(
    "loss",
    (
        ZLPRLoss(),
        ZLPRLoss(reduction="batchmean", ignore_index=-1),
        ZLPRLoss(reduction="sum", normalizer=3.0),
        BCEWithLogitsLoss(),
        BCEWithLogitsLoss(reduction="batchmean", weight=torch.arange(LABELS).float()),
        DiceLoss(),
        ZLPRLoss() + 0.5 * DiceLoss(),
    ),
    ids=lambda loss: f"{type(loss).__name__}-{loss.reduction}",
)
def test_per_sample_gradients(backend: Backend, generator: torch.Generator, loss: Any) -> None:
    loss = copy.deepcopy(loss).to(backend.device)
    x = torch.randn((SAMPLES, ROWS, LABELS), generator=generator).to(backend.device)
    y = random_positives(generator, (SAMPLES, ROWS, LABELS)).to(backend.device).int()
    y[0, 0, 0] = -1 if getattr(loss, "ignore_index", None) else 0
    weights = torch.rand((SAMPLES, ROWS), generator=generator).to(backend.device)
    assert_samples_match_the_reference(loss, x, y)
    assert_samples_match_the_reference(loss, x[:, 0], y[:, 0])
    assert_samples_match_the_reference(loss, x, y, weights)
    assert_samples_match_the_reference(loss, x.movedim(0, 1), y[1], in_dims=(1, None))
    assert vmap(loss)(x[:0], y[:0], weights[:0]).shape == (0,)
    assert vmap(grad(loss))(x[:0], y[:0]).shape == x[:0].shape
    assert_samples_match_the_reference(loss, x[:, :0], y[:, :0], weights[:, :0])
    factors = torch.arange(SAMPLES, device=backend.device)
    whole = grad(lambda x: (vmap(loss)(x, y) * factors).sum())
    found = whole(x)
    with mlloss_cuda.use_backend("reference"):
        torch.testing.assert_close(found, whole(x))


@pytest.mark.parametrize(
    "loss", (ZLPRLoss(reduction="none"), BCEWithLogitsLoss(reduction="none"), DiceLoss()), ids=repr
)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_losses_of_samples(backend: Backend, generator: torch.Generator, loss: Any, dtype: torch.dtype) -> None:
    """The backward reads the logits again for these losses, which it can if it is not itself under vmap."""
    x = torch.randn((SAMPLES, ROWS, LABELS), generator=generator).to(backend.device, dtype)
    y = random_positives(generator, (SAMPLES, ROWS, LABELS)).to(backend.device)
    weights = torch.rand((ROWS, SAMPLES), generator=generator).to(backend.device)
    scale = torch.tensor(1.5, device=backend.device)

    def total(x: Tensor, scale: Tensor) -> Tensor:
        own = copy.copy(loss)
        own.logit_scale = scale
        return (vmap(own, (0, 0, 1))(x, y, weights) ** 2).sum()

    calls = [lambda: vmap(loss)(x, y), lambda: grad(total, (0, 1))(x, scale)]
    if loss.reduction == "none":
        calls.append(lambda: vmap(vmap(loss))(x[:, None], y[:, None]))
    # The gradient of the scale is a sum of a hundred float32 numbers; gradients in float16 are rounded twice.
    rtol = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    for call in calls:
        found = call()
        with mlloss_cuda.use_backend("reference"):
            torch.testing.assert_close(found, call(), rtol=rtol, atol=1e-5)


def test_per_sample_gradients_of_a_model(generator: torch.Generator) -> None:
    model = nn.Linear(FEATURES, LABELS)
    parameters = dict(model.named_parameters())
    x = torch.randn((SAMPLES, FEATURES), generator=generator)
    y = random_positives(generator, (SAMPLES, LABELS))
    per_sample = vmap(grad(lambda own, x, y: zlpr_loss(functional_call(model, own, x), y)), (None, 0, 0))
    for i, found in enumerate(per_sample(parameters, x, y)["weight"]):
        torch.testing.assert_close(found, torch.autograd.grad(zlpr_loss(model(x[i]), y[i]), model.weight)[0])


@pytest.mark.parametrize(
    "why,loss,dtype",
    (
        ("its groups cross rows", DiceLoss(average="micro"), torch.float32),
        ("a reduction other than", SigmoidFocalLoss(reduction="none"), torch.float32),
        ("other than float16", ZLPRLoss(), torch.float16),
        ("inplace_backward is set", ZLPRLoss(inplace_backward=True), torch.float32),
    ),
)
def test_vmap_raises_with_the_reason(why: str, loss: Any, dtype: torch.dtype) -> None:
    x, y = torch.zeros((SAMPLES, ROWS, LABELS), dtype=dtype), torch.zeros(SAMPLES, ROWS, LABELS)
    with pytest.raises(NotImplementedError, match=f"under vmap: .*{why}.*\n*.*use_backend"):
        vmap(grad(lambda x, y: loss(x * 1, y).sum()))(x, y)


@pytest.mark.parametrize("loss", (ZLPRLoss(), BCEWithLogitsLoss(), DiceLoss()), ids=repr)
def test_vmap_of_a_backward_without_samples_of_logits(loss: Any) -> None:
    """Targets that differ from sample to sample make the coefficients differ, so the backward refuses the call."""
    x, y = torch.randn((ROWS, LABELS)), torch.rand((SAMPLES, ROWS, LABELS)) < 0.3

    def scaled(scale: Tensor, y: Tensor) -> Tensor:
        own = copy.copy(loss)
        own.logit_scale = scale
        return own(x, y)

    with pytest.raises(NotImplementedError, match="under vmap: "):
        vmap(grad(scaled), (None, 0))(torch.tensor(1.5), y)
    none = copy.copy(loss)
    none.reduction = "none"
    with pytest.raises(NotImplementedError, match="under vmap: "):
        vmap(grad(lambda x, y: none(x, y).sum()), (None, 0))(x, y)


def test_a_gradient_under_two_vmaps_raises_with_the_reason() -> None:
    x, y = torch.zeros((SAMPLES, ROWS, LABELS)), torch.zeros(SAMPLES, ROWS, LABELS)
    with pytest.raises(NotImplementedError, match="under vmap: .* one vmap"):
        vmap(vmap(grad(zlpr_loss)))(x, y)


def test_vmap_raises_for_per_sample_weight_and_csr_targets() -> None:
    x, y = torch.zeros((SAMPLES, ROWS, LABELS)), torch.zeros(SAMPLES, ROWS, LABELS)
    with pytest.raises(NotImplementedError, match="weight differs from sample to sample"):
        vmap(lambda x, y, weight: zlpr_loss(x, y, weight=weight))(x, y, torch.ones(SAMPLES, LABELS))
    with pytest.raises(NotImplementedError, match="CSRTargets hold no dimension"):
        vmap(lambda x: zlpr_loss(x, sparse()))(torch.zeros(SAMPLES, 5, LABELS))
