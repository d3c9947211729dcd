"""Use of losses in PyTorch beyond one backward: repeated, double, in place, checkpointed, transformed, compiled."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import mlloss_cuda
from mlloss_cuda import CSRTargets, sigmoid_focal_loss, zlpr_loss

from .cases import Case
from .conftest import Backend
from .inputs import as_layout, evaluate, random_logits, random_positives, random_probabilities

SHAPE = (6, 2100)


@pytest.fixture
def logits(generator: torch.Generator, backend: Backend) -> Tensor:
    return random_logits(generator, SHAPE, torch.float32, backend.device)


@pytest.fixture
def targets(generator: torch.Generator, backend: Backend) -> Tensor:
    return random_positives(generator, SHAPE, 0.05).to(backend.device)


@pytest.mark.parametrize("reduction", ("none", "sum", "mean"))
@pytest.mark.parametrize("soft", (False, True))
def test_gradcheck(served: Case, backend: Backend, generator: torch.Generator, reduction: str, soft: bool) -> None:
    if not served.derivative:
        return
    x = random_logits(generator, (3, 5), torch.float64, backend.device, 1.0).requires_grad_()
    make = random_probabilities if soft else random_positives
    y = make(generator, (3, 5)).to(backend.device)
    scale = torch.tensor(1.3, dtype=torch.float64, device=backend.device, requires_grad=True)
    bias = torch.randn(5, generator=generator, dtype=torch.float64).to(backend.device).requires_grad_()
    sample_weight = torch.rand(3, generator=generator).to(backend.device)

    def f(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return served(x, y, logit_scale=scale, logit_bias=bias, sample_weight=sample_weight, reduction=reduction)

    assert torch.autograd.gradcheck(f, (x, scale, bias))
    assert torch.autograd.gradcheck(lambda x: served(x, y, reduction=reduction), (x,))


@pytest.mark.parametrize("shape", ((), (1,), (5,), (3, 1), (1, 1), (1, 5)), ids=str)
def test_learnable_thresholds(backend: Backend, generator: torch.Generator, shape: tuple[int, ...]) -> None:
    x = random_logits(generator, (3, 5), torch.float64, backend.device, 1.0).requires_grad_()
    y = random_positives(generator, (3, 5)).to(backend.device)
    threshold = torch.randn(shape, generator=generator, dtype=torch.float64).to(backend.device).requires_grad_()
    f = lambda x, t: zlpr_loss(x, y, threshold=t, reduction="none")  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, threshold))
    torch.testing.assert_close(f(x, threshold), zlpr_loss(x - threshold, y, reduction="none"))


@pytest.mark.parametrize("shape", ((), (1,), (1, 1)), ids=str)
def test_learnable_scales(backend: Backend, generator: torch.Generator, shape: tuple[int, ...]) -> None:
    x = random_logits(generator, (3, 5), torch.float64, backend.device, 1.0).requires_grad_()
    y = random_positives(generator, (3, 5)).to(backend.device)
    scale = torch.full(shape, 1.5, dtype=torch.float64, device=backend.device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: zlpr_loss(x, y, logit_scale=c, reduction="none"), (x, scale))
    loss = mlloss_cuda.ZLPRLoss(logit_scale=nn.Parameter(scale.detach()))
    assert torch.equal(loss.predict(x), x > 0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("factor", (1.0, -2.5))
def test_grad_output(
    served: Case, backend: Backend, logits: Tensor, targets: Tensor, dtype: torch.dtype, factor: float
) -> None:
    x = logits.to(dtype)
    unit = evaluate(served, x, targets).gradient
    scaled = evaluate(lambda a, b: factor * served(a, b), x, targets).gradient
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    absolute = max(1e-7, (1 + abs(factor)) * subnormal / 2)  # both gradients are rounded, one of them before the factor
    torch.testing.assert_close(scaled.float(), factor * unit.float(), rtol=tolerance, atol=absolute)


def test_float16_gradients_survive_a_loss_scale(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """A gradient that the forward rounds to 0 in float16 cannot be scaled back: it is formed in the backward."""
    shape = (64, 5000)
    x = random_logits(generator, shape, torch.float16, backend.device)
    y = random_positives(generator, shape, 0.001).to(backend.device)
    with mlloss_cuda.use_backend("reference"):
        exact = evaluate(served, x.double(), y).gradient
    scale = 2.0 ** min(14, 15 - math.ceil(math.log2(float(exact.abs().max()))))  # below float16's largest
    scaled = evaluate(lambda a, b: scale * served(a, b), x, y).gradient.double() / scale
    error = (scaled - exact).abs().max()
    assert float(error) <= 2e-3 * float(exact.abs().max())


def test_repeated_backward(served: Case, logits: Tensor, targets: Tensor) -> None:
    """Scaling the saved gradient in place would give a factor of 3 * 3 instead of 3."""
    x = logits.requires_grad_()
    loss = 3.0 * served(x, targets)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, kept)
    assert torch.equal(second, kept)
    assert torch.equal(third, kept)


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_double_backward_raises_with_the_reason(served: Case, logits: Tensor, targets: Tensor, reduction: str) -> None:
    x = logits.requires_grad_()
    for unreached in (False, True):
        value = served(x, targets, reduction=reduction).sum()
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        assert gradient.requires_grad
        penalised = gradient.square().sum() + (served(x, targets) if unreached else 0)
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(penalised, x) if unreached else penalised.backward()


def test_double_backward_through_learnable_arguments(backend: Backend, logits: Tensor, targets: Tensor) -> None:
    """A penalty on the gradients of learnable arguments must not silently be dropped."""
    learnable = {
        "logit_scale": torch.tensor(0.9, device=backend.device, requires_grad=True),
        "logit_bias": torch.zeros(SHAPE[1], device=backend.device, requires_grad=True),
        "threshold": torch.zeros(SHAPE[0], 1, device=backend.device, requires_grad=True),
    }
    value = zlpr_loss(logits, targets, **learnable)
    gradients = torch.autograd.grad(value, list(learnable.values()), create_graph=True)
    for gradient in gradients:
        with pytest.raises(RuntimeError, match="differentiable once"):
            gradient.square().sum().backward(retain_graph=True)


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_the_loss_may_be_changed_in_place(served: Case, logits: Tensor, targets: Tensor, reduction: str) -> None:
    """Users write ``loss /= steps`` to accumulate gradients."""
    x = logits.requires_grad_()
    loss = served(x, targets, reduction=reduction)
    loss = loss.sum() if reduction == "none" else loss
    loss /= 4
    (got,) = torch.autograd.grad(loss, x)
    expected = evaluate(lambda a, b: served(a, b, reduction=reduction).sum() / 4, logits, targets).gradient
    assert torch.equal(got, expected)
    raw = served(x, targets, reduction=reduction)
    raw *= 2
    raw.sum().backward()


def test_forward_mode_raises(served: Case, logits: Tensor, targets: Tensor) -> None:
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: served(x, targets), (logits,), (torch.ones_like(logits),))


def test_logits_are_not_modified(served: Case, logits: Tensor, targets: Tensor) -> None:
    before = logits.clone()
    evaluate(served, logits, targets)
    assert torch.equal(logits, before)
    version = logits._version
    served(logits.requires_grad_(), targets).backward()
    assert torch.equal(logits.detach(), before)
    assert logits._version == version


class TestInPlace:
    def test_gradient_takes_the_logits_memory(self, served: Case, logits: Tensor, targets: Tensor) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = logits.to(dtype).requires_grad_()
            expected = evaluate(lambda a, b: 3 * served(a, b), x, targets)
            made = x * 1
            received: list[Tensor] = []
            made.register_hook(received.append)
            value = 3 * served(made, targets, inplace_backward=True)
            value.backward()
            assert received[0].data_ptr() == made.data_ptr()
            assert torch.equal(value.detach(), expected.value)
            assert torch.equal(received[0], expected.gradient)

    def test_needs_contiguous_logits_of_an_operation(self, logits: Tensor, targets: Tensor) -> None:
        with pytest.raises(ValueError, match="inplace_backward.*leaf"):
            zlpr_loss(logits.requires_grad_(), targets, inplace_backward=True)
        with pytest.raises(ValueError, match="inplace_backward.*view"):
            zlpr_loss(logits.view(2, 3, -1), targets.view(2, 3, -1), inplace_backward=True)
        with pytest.raises(ValueError, match=r"inplace_backward.*contiguous"):
            zlpr_loss((logits * 1).t(), targets.t(), inplace_backward=True)

    def test_one_backward_only(self, served: Case, logits: Tensor, targets: Tensor) -> None:
        value = served(logits.requires_grad_() * 1, targets, inplace_backward=True)
        value.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match=r"one backward only|modified by an inplace operation"):
            value.backward()

    def test_an_operation_that_needs_the_old_logits_fails_loudly(
        self, served: Case, logits: Tensor, targets: Tensor
    ) -> None:
        made = logits.requires_grad_().exp()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            served(made, targets, inplace_backward=True).backward()

    def test_without_grad_nothing_is_written(self, served: Case, logits: Tensor, targets: Tensor) -> None:
        before = logits.clone()
        served(logits, targets, inplace_backward=True)
        assert torch.equal(logits, before)

    def test_learnable_scale(self, served: Case, logits: Tensor, targets: Tensor, backend: Backend) -> None:
        scale = torch.tensor(0.8, device=backend.device, requires_grad=True)
        x = logits.requires_grad_()
        expected = torch.autograd.grad(served(x, targets, logit_scale=scale), (x, scale))
        got = torch.autograd.grad(served(x * 1, targets, logit_scale=scale, inplace_backward=True), (x, scale))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpoint(
    served: Case, backend: Backend, generator: torch.Generator, targets: Tensor, reentrant: bool
) -> None:
    layer = nn.Linear(8, SHAPE[1]).to(backend.device)
    features = torch.randn(SHAPE[0], 8, generator=generator).to(backend.device).requires_grad_()
    parameters = (features, *layer.parameters())

    def step(features: Tensor) -> Tensor:
        return served(layer(features), targets)

    expected = torch.autograd.grad(step(features), parameters)
    checkpoint(step, features, use_reentrant=reentrant).backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_func_grad(served: Case, logits: Tensor, targets: Tensor) -> None:
    got, value = torch.func.grad_and_value(lambda x: served(x, targets))(logits)
    expected = evaluate(served, logits, targets)
    assert torch.equal(got, expected.gradient)
    assert torch.equal(value, expected.value)


def test_a_tensor_that_outlives_its_transform() -> None:
    """Logits that a transform of ``torch.func`` leaves behind are a tensor like any other."""
    kept: list[Tensor] = []
    leaf, factor = torch.randn(3, 5), torch.randn(5, requires_grad=True)

    def keeping(x: Tensor) -> Tensor:
        kept.append(x * factor)
        return x.sum()

    torch.func.grad(keeping)(leaf)
    targets = torch.rand(3, 5) < 0.5
    for scale in (1.0, torch.tensor(1.0, requires_grad=True)):
        losses = [zlpr_loss(logits, targets, logit_scale=scale) for logits in (leaf * factor, kept[0])]
        expected, got = (torch.autograd.grad(loss, factor, retain_graph=True)[0] for loss in losses)
        torch.testing.assert_close(got, expected)


def test_make_fx_records_a_call_with_tensors() -> None:
    """The checks read no values of tensors while ``make_fx`` records a graph."""
    logits, targets = torch.randn(3, 5), torch.rand(3, 5) < 0.5
    tensors = {"weight": torch.rand(5), "logit_scale": torch.tensor(1.5), "threshold": torch.tensor(0.5)}
    call = lambda x: zlpr_loss(x, targets, **tensors)  # noqa: E731
    assert torch.equal(make_fx(call)(logits)(logits), call(logits))


def test_make_fx_records_the_product_with_a_factor() -> None:
    """A factor of 1, which costs no op on the CPU otherwise, is another factor when the graph runs."""

    def gradient(x: Tensor, factor: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(zlpr_loss(x, targets), x, factor)[0]

    logits, targets = torch.randn(3, 5), torch.rand(3, 5) < 0.5
    graph = make_fx(gradient)(logits, torch.tensor(1.0))
    assert torch.equal(graph(logits, torch.tensor(3.0)), 3 * gradient(logits, torch.tensor(1.0)))


def test_batched_gradients(served: Case, logits: Tensor, targets: Tensor) -> None:
    """Autograd's is_grads_batched, which jacobian(vectorize=True) uses, takes several grad_outputs at once."""
    x = logits[:3, :50].contiguous().requires_grad_()
    value = served(x, targets[:3, :50])
    factors = torch.tensor([1.0, -2.5, 0.0], device=x.device)
    (got,) = torch.autograd.grad(value, x, factors, is_grads_batched=True, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(got, factors.view(3, 1, 1) * gradient)


def test_autocast_leaves_the_logits_as_they_are(
    served: Case, backend: Backend, logits: Tensor, targets: Tensor
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        expected = evaluate(served, logits.to(dtype), targets)
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            got = evaluate(served, logits.to(dtype), targets)
        assert got.value.dtype == torch.float32
        assert torch.equal(got.value, expected.value)
        assert torch.equal(got.gradient, expected.gradient)


@pytest.mark.parametrize("layout", ("bool", "csr64"))
@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_leading_dimensions(
    served: Case, backend: Backend, logits: Tensor, targets: Tensor, layout: str, reduction: str
) -> None:
    given = as_layout(targets.cpu(), layout, backend.device)
    flat = evaluate(served, logits, given, reduction=reduction)
    for leading in ((2, 3), (1, 6), (3, 1, 2)):
        shaped = (*leading, SHAPE[1])
        got = evaluate(
            served, logits.view(shaped), given.view(shaped) if layout == "bool" else given, reduction=reduction
        )
        rows = reduction == "none" and served.own.get("average", "samples") == "samples"
        if rows:
            assert got.value.shape == (shaped if served.element_wise else leading)
        assert torch.equal(got.value.reshape(flat.value.shape), flat.value)
        assert torch.equal(got.gradient.view(SHAPE), flat.gradient)


def test_one_row_without_leading_dimensions(served: Case, logits: Tensor, targets: Tensor) -> None:
    got, expected = evaluate(served, logits[0], targets[0]), evaluate(served, logits[:1], targets[:1])
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient[0])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_not_contiguous(served: Case, logits: Tensor, targets: Tensor, dtype: torch.dtype) -> None:
    x = logits.to(dtype)
    expected = evaluate(served, x, targets)
    wide = torch.stack([x, x + 1], -1)
    padded = torch.cat([x, x[:, :3]], 1)
    for strided in (x.t().contiguous().t(), wide[..., 0], padded[:, : SHAPE[1]]):
        leaf = strided.detach().requires_grad_()
        value = served(leaf, targets)
        (gradient,) = torch.autograd.grad(value, leaf)
        # Rows at other addresses are split into other chunks, so sums have another order.
        torch.testing.assert_close(value.detach(), expected.value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient, expected.gradient, rtol=8 * torch.finfo(dtype).eps + 2e-6, atol=1e-7)


class TestCompile:
    def test_fullgraph(self, served: Case, backend: Backend, logits: Tensor, targets: Tensor) -> None:
        torch._dynamo.reset()

        @torch.compile(fullgraph=True)
        def step(x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
            value = served(x, y)
            return value, 2.0 * value

        for y in (targets, CSRTargets.from_dense(targets)):
            x = logits.clone().requires_grad_()
            value, twice = step(x, y)
            twice.backward()
            expected = evaluate(lambda a, b: 2.0 * served(a, b), logits, y)
            torch.testing.assert_close(twice.detach(), expected.value, rtol=1e-6, atol=0)
            torch.testing.assert_close(x.grad, expected.gradient, rtol=1e-6, atol=1e-12)
            with torch.no_grad():
                assert torch.equal(step(x, y)[0], value.detach())

    def test_func_grad(self, served: Case, logits: Tensor, targets: Tensor) -> None:
        torch._dynamo.reset()
        expected, value = torch.func.grad_and_value(lambda x: served(x, targets))(logits)
        got = torch.compile(torch.func.grad_and_value(lambda x: served(x, targets)), fullgraph=True)(logits)
        torch.testing.assert_close(got[0], expected, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(got[1], value, rtol=1e-6, atol=0)

    def test_in_place_takes_no_view_of_a_parameter(self, logits: Tensor, targets: Tensor) -> None:
        torch._dynamo.reset()
        parameter = nn.Parameter(logits.flatten())

        @torch.compile
        def step(flat: Tensor, made: bool) -> Tensor:
            return zlpr_loss((flat * 1 if made else flat).view(SHAPE), targets, inplace_backward=True)

        step(parameter, True).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns as it falls back to a frame whose input is the view
            with pytest.raises(ValueError, match="inplace_backward.*view"):
                step(parameter, False)
        assert torch.equal(parameter.detach().view(SHAPE), logits)
        expected = evaluate(zlpr_loss, logits, targets).gradient
        torch.testing.assert_close(parameter.grad.view(SHAPE), expected, rtol=1e-6, atol=1e-12)

    def test_use_backend_inside(self, logits: Tensor, targets: Tensor) -> None:
        torch._dynamo.reset()

        @torch.compile(fullgraph=True, backend="aot_eager")
        def step(x: Tensor, y: Tensor) -> Tensor:
            with mlloss_cuda.use_backend("reference"):
                return zlpr_loss(x, y)

        x = logits.requires_grad_()
        for _ in range(2):
            torch.testing.assert_close(step(x, targets), zlpr_loss(x, targets))

    def test_few_recompilations_as_nnz_varies(self, backend: Backend, generator: torch.Generator) -> None:
        from torch._dynamo.testing import CompileCounterWithBackend

        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        step = torch.compile(lambda x, y: zlpr_loss(x, y), backend=counter, fullgraph=True)
        for share in (0.01, 0.02, 0.05, 0.1, 0.2):
            dense = random_positives(generator, SHAPE, share).to(backend.device)
            x = random_logits(generator, SHAPE, torch.float32, backend.device)
            got = step(x.requires_grad_(), CSRTargets.from_dense(dense))
            assert torch.equal(got.detach(), zlpr_loss(x, dense).detach())
        assert counter.frame_count <= 3

    def test_numbers_that_change(self, backend: Backend, logits: Tensor, targets: Tensor) -> None:
        """A schedule of gamma, a normalizer by batch size and dynamic shapes turn numbers into symbols."""
        torch._dynamo.reset()
        step = torch.compile(
            lambda x, y, g, n: sigmoid_focal_loss(x, y, gamma=g, reduction="sum", normalizer=n), fullgraph=True
        )
        for gamma, count in ((2.0, 3), (1.5, 4), (1.0, 6)):
            got = step(logits, targets, gamma, count)
            expected = sigmoid_focal_loss(logits, targets, gamma=gamma, reduction="sum", normalizer=count)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
        torch._dynamo.reset()
        dynamic = torch.compile(lambda x, y: zlpr_loss(x, y), fullgraph=True, dynamic=True)
        for rows in (6, 4, 3):
            x = logits[:rows].clone().requires_grad_()
            value = dynamic(x, targets[:rows])
            value.backward()
            expected = evaluate(zlpr_loss, logits[:rows], targets[:rows])
            torch.testing.assert_close(value.detach(), expected.value, rtol=1e-6, atol=0)
            torch.testing.assert_close(x.grad, expected.gradient, rtol=1e-6, atol=1e-12)

    def test_learnable_scale_and_bias(self, served: Case, backend: Backend, logits: Tensor, targets: Tensor) -> None:
        torch._dynamo.reset()
        scale = torch.tensor(0.8, device=backend.device, requires_grad=True)
        bias = torch.zeros(SHAPE[1], device=backend.device, requires_grad=True)
        call = lambda x: served(x, targets, logit_scale=scale, logit_bias=bias)  # noqa: E731
        x = logits.requires_grad_()
        expected = torch.autograd.grad(call(x), (x, scale, bias))
        got = torch.autograd.grad(torch.compile(call, fullgraph=True)(x), (x, scale, bias))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-10)

    def test_module_in_a_model(self, served: Case, backend: Backend, generator: torch.Generator) -> None:
        torch._dynamo.reset()
        layer = nn.Linear(8, 300).to(backend.device)
        loss = served.module(**served.own)
        features = torch.randn(5, 8, generator=generator).to(backend.device)
        y = random_positives(generator, (5, 300)).to(backend.device)
        expected = torch.autograd.grad(loss(layer(features), y), tuple(layer.parameters()))
        compiled = torch.compile(lambda f: loss(layer(f), y), fullgraph=True)
        got = torch.autograd.grad(compiled(features), tuple(layer.parameters()))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_deterministic_mode(served: Case, logits: Tensor, targets: Tensor) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        evaluate(served, logits, targets)
    finally:
        torch.use_deterministic_algorithms(False)


def test_normalizer_is_folded_before_rounding(backend: Backend, generator: torch.Generator) -> None:
    x = random_logits(generator, SHAPE, torch.bfloat16, backend.device)
    y = random_positives(generator, SHAPE).to(backend.device)
    count = torch.tensor(1000.0, device=backend.device)
    folded = evaluate(sigmoid_focal_loss, x, y, reduction="sum", normalizer=count)
    same = evaluate(sigmoid_focal_loss, x, y, reduction="sum", normalizer=1000)
    assert torch.equal(folded.gradient, same.gradient)
    torch.testing.assert_close(folded.value, evaluate(sigmoid_focal_loss, x, y, reduction="sum").value / 1000)


def test_a_checkpointed_loss_has_a_graph_of_its_gradient() -> None:
    """Saved tensors are unpacked once, as hooks that allow no second time require."""
    x, targets = torch.randn(3, 8, requires_grad=True), torch.rand(3, 8) < 0.3
    value = checkpoint(lambda z: zlpr_loss(z, targets), x * 1, use_reentrant=False)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    assert torch.equal(gradient, torch.autograd.grad(zlpr_loss(x, targets), x)[0])
