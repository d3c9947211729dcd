"""The divergence of two passes: its value, and the gradients for both, by every engine."""

from __future__ import annotations

import inspect
import math
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import mlloss_cuda
from mlloss_cuda import SymmetricKLLoss, _ops, losses, symmetric_kl_loss
from mlloss_cuda._call import Options, TensorArguments, shared_arguments

from .conftest import Backend
from .inputs import Reference, assert_within_budget, evaluate, random_logits
from .test_ops import Recorder

pytestmark = pytest.mark.element_wise
INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def inputs(
    generator: torch.Generator, backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, apart: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the logits of two passes, as near to each other as with dropout."""
    logits = random_logits(generator, shape, torch.float64, backend.device)
    other = logits + random_logits(generator, shape, torch.float64, backend.device, apart)
    return logits.to(dtype), other.to(dtype)


def assert_both_within_budget(loss: Any, s: Tensor, t: Tensor, **arguments: Any) -> None:
    """Assert that either gradient is within the budget while the other one is formed too."""
    for first, second in ((s, t), (t, s)):

        def call(x: Tensor, y: Tensor, **options: Any) -> Tensor:
            return loss(x, y.to(x.dtype).requires_grad_(), **options)

        got = evaluate(call, first, second.detach(), **arguments)
        assert_within_budget(got, Reference(call, first, second.detach(), **arguments))


@pytest.mark.parametrize("loss", (symmetric_kl_loss,), ids=("symmetric_kl()",))
@pytest.mark.parametrize("shape", ((3, 1), (5, 37), (3, 2111)), ids=str)
@pytest.mark.parametrize("reduction", ("none", "mean"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_reductions_shapes(
    backend: Backend, generator: torch.Generator, dtype: torch.dtype, reduction: str, shape: tuple[int, int], loss: Any
) -> None:
    s, t = inputs(generator, backend, shape, dtype)
    assert_both_within_budget(loss, s, t, reduction=reduction)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_weights_and_scale(backend: Backend, generator: torch.Generator, dtype: torch.dtype) -> None:
    s, t = inputs(generator, backend, (4, 3, 70), dtype)
    s = s.transpose(0, 1).contiguous().transpose(0, 1)  # neither contiguous nor laid out like t
    weight = torch.rand(70, generator=generator).to(backend.device)
    weight[::7] = 0
    sample_weight = torch.rand(4, 3, generator=generator).to(backend.device)
    sample_weight[1] = 0
    sides: dict[str, Any] = {"weight": weight, "sample_weight": sample_weight, "logit_scale": 0.6}
    assert_both_within_budget(symmetric_kl_loss, s, t, **sides, reduction="sum", normalizer=37.0)
    poisoned = s.clone()
    poisoned[..., ::7], poisoned[1] = NAN, INF
    clean, spoiled = (evaluate(symmetric_kl_loss, x, t, **sides) for x in (s, poisoned))
    assert torch.equal(clean.value, spoiled.value)
    assert torch.equal(clean.gradient, spoiled.gradient)
    assert float(spoiled.gradient[..., ::7].abs().sum() + spoiled.gradient[1].abs().sum()) == 0


@pytest.mark.parametrize("reduction", ("none", "sum"))
def test_gradcheck(backend: Backend, generator: torch.Generator, reduction: str) -> None:
    s, t = inputs(generator, backend, (2, 3), torch.float64)
    scale = torch.tensor(1.3, dtype=torch.float64, device=backend.device)
    sample_weight = torch.rand(2, generator=generator).to(backend.device)

    def f(s: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return symmetric_kl_loss(s, t, logit_scale=scale, sample_weight=sample_weight, reduction=reduction)

    given = [x.requires_grad_() for x in (s, t, scale)]
    assert torch.autograd.gradcheck(f, given)
    together = torch.autograd.grad(f(*given).sum(), given)
    for i, expected in enumerate(together):
        some = [x.detach().requires_grad_(j == i) for j, x in enumerate(given)]
        torch.testing.assert_close(torch.autograd.grad(f(*some).sum(), some[i])[0], expected)


@pytest.mark.parametrize("reduction", ("none", "mean"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_both_gradients_are_one_pass(
    backend: Backend, generator: torch.Generator, dtype: torch.dtype, reduction: str
) -> None:
    s, t = (x.requires_grad_() for x in inputs(generator, backend, (3, 70), dtype))
    formed = dtype == torch.float32 and reduction == "mean"
    expected = {
        True: ["pair_forward", "scale_gradient_", "scale_gradient_"] if formed else ["loss_forward", "pair_backward"],
        False: ["loss_forward", "scale_gradient_" if formed else "loss_backward"],
    }
    for both, names in expected.items():
        with Recorder() as recorder:
            value = symmetric_kl_loss(s, t if both else t.detach(), reduction=reduction)
            value.backward(torch.ones_like(value))
        ours = [name for name, _ in recorder.calls if name.startswith(backend.namespace)]
        assert ours == [f"{backend.namespace}.{name}.default" for name in names]


@pytest.mark.parametrize("reduction", ("none", "mean"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_gradient_is_that_of_a_pair(
    backend: Backend, generator: torch.Generator, dtype: torch.dtype, reduction: str
) -> None:
    kind = torch.finfo(dtype)
    s, t = (x.requires_grad_() for x in inputs(generator, backend, (4, 1100), dtype))
    value = symmetric_kl_loss(s, t, reduction=reduction)
    pair = torch.autograd.grad(value.sum(), (s, t))
    for alone, found in ((0, pair[0]), (1, pair[1])):
        one = symmetric_kl_loss(s.detach() if alone else s, t if alone else t.detach(), reduction=reduction)
        torch.testing.assert_close(one, value, rtol=1e-6 if dtype != torch.float64 else 1e-14, atol=0)
        (expected,) = torch.autograd.grad(one.sum(), t if alone else s)
        torch.testing.assert_close(found, expected, rtol=4 * kind.eps, atol=kind.tiny * kind.eps)


def test_opcheck_of_pairs(backend: Backend, generator: torch.Generator) -> None:
    s, t = inputs(generator, backend, (3, 40), torch.float32)
    ops, tests = getattr(torch.ops, backend.namespace), ("test_schema", "test_faketensor")
    for reduction in (0, 2):
        options = Options("symmetric_kl", (), _ops.GROUPINGS.index("element"), reduction, all_labels=40)
        shared = shared_arguments(TensorArguments(targets=t), options)
        grad_output = torch.ones_like(s) if reduction == 0 else torch.tensor(2.0, device=backend.device)
        torch.library.opcheck(ops.pair_backward.default, (grad_output, s, *shared), test_utils=tests)
        if reduction != 0:
            torch.library.opcheck(ops.pair_forward.default, (s, *shared), test_utils=tests)


def definition(s: float, t: float) -> tuple[float, float]:
    """Return the value and the gradient in s, computed with 150 digits."""
    with localcontext() as context:
        context.prec = 150
        a, b = Decimal(s), Decimal(t)
        p, q = (1 / (1 + (-x).exp()) for x in (a, b))
        return float((p - q) * (a - b)), float(p * (1 - p) * (a - b) + p - q)


def test_saturated_logits_are_exact(backend: Backend) -> None:
    """The sigmoids differ by as little as e^-|s|, so the loss must not subtract them."""
    pairs = [(s, t) for s in (80.0, 40.0, 17.0, 3.0, 1e-6) for t in (80.5, 41.0, 17.0 + 2**-19, 3.0 + 2**-20, 0.0)]
    pairs += [(-s, -t) for s, t in pairs] + [(40.0, -40.0), (-80.0, 70.0)]
    s, t = (torch.tensor([list(side)], device=backend.device) for side in zip(*pairs, strict=True))
    got = evaluate(symmetric_kl_loss, s, t, reduction="none")
    exact = torch.tensor([definition(*pair) for pair in zip(s[0].tolist(), t[0].tolist(), strict=True)]).double()
    torch.testing.assert_close(got.value[0].cpu().double(), exact[:, 0], rtol=4e-5, atol=0)
    torch.testing.assert_close(got.gradient[0].cpu().double(), exact[:, 1], rtol=4e-5, atol=0)


def test_infinite_logits_take_their_limits(backend: Backend) -> None:
    rows = (
        # s, t, value, gradient in s, gradient in t
        (INF, 1.0, INF, 1 / (1 + math.e), -INF),
        (-INF, 1.0, INF, -1 / (1 + 1 / math.e), INF),
        (INF, -INF, INF, 1.0, -1.0),
        (INF, INF, 0.0, 0.0, 0.0),
        (-INF, -INF, 0.0, 0.0, 0.0),
        (2.5, 2.5, 0.0, 0.0, 0.0),
    )
    s, t, *expected = (torch.tensor([list(column)], device=backend.device) for column in zip(*rows, strict=True))
    for x, y, gradient in ((s, t, expected[1]), (t, s, expected[2])):
        got = evaluate(symmetric_kl_loss, x, y, reduction="none")
        torch.testing.assert_close(got.value, expected[0])
        torch.testing.assert_close(got.gradient, gradient)
        with mlloss_cuda.use_backend("reference"):
            plain = evaluate(symmetric_kl_loss, x, y, reduction="none")
        torch.testing.assert_close(plain.value, expected[0])
        torch.testing.assert_close(plain.gradient, gradient)


def test_nan_affects_only_its_element(backend: Backend, generator: torch.Generator) -> None:
    s, t = inputs(generator, backend, (4, 50), torch.float32)
    clean = evaluate(symmetric_kl_loss, s, t, reduction="none")
    s[1, 7], t[2, 9] = NAN, NAN
    got = evaluate(symmetric_kl_loss, s, t, reduction="none")
    for g, c in ((got.value, clean.value), (got.gradient, clean.gradient)):
        assert g.isnan().nonzero().tolist() == [[1, 7], [2, 9]]
        assert torch.equal(g[~g.isnan()], c[~g.isnan()])


def test_symmetric_bit_by_bit(backend: Backend, generator: torch.Generator) -> None:
    s, t = inputs(generator, backend, (5, 2100), torch.bfloat16)
    assert torch.equal(symmetric_kl_loss(s, t, reduction="none"), symmetric_kl_loss(t, s, reduction="none"))
    same = evaluate(symmetric_kl_loss, s, s.clone())
    assert float(same.value) == float(same.gradient.abs().sum()) == 0


def test_negative_logits_are_not_unknown_targets(backend: Backend) -> None:
    s = torch.zeros(2, 3, device=backend.device)
    assert float(symmetric_kl_loss(s, s - 1)) == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)


@pytest.mark.parametrize("shape", ((0, 5), (5, 0)), ids=str)
@pytest.mark.parametrize("reduction", ("none", "sum", "mean", "batchmean"))
def test_empty(backend: Backend, shape: tuple[int, int], reduction: str) -> None:
    s, t = torch.zeros(shape, device=backend.device), torch.zeros(shape, device=backend.device)
    got = evaluate(symmetric_kl_loss, s, t, reduction=reduction)
    with mlloss_cuda.use_backend("reference"):
        expected = evaluate(symmetric_kl_loss, s, t, reduction=reduction)
    torch.testing.assert_close(got.value, expected.value, equal_nan=True)
    assert got.gradient.shape == shape


def test_repeated_and_double_backward(backend: Backend, generator: torch.Generator) -> None:
    s, t = (x.requires_grad_() for x in inputs(generator, backend, (3, 40), torch.float32))
    loss = 3.0 * symmetric_kl_loss(s, t)
    first = torch.autograd.grad(loss, (s, t), retain_graph=True)
    kept = [x.clone() for x in first]
    second = torch.autograd.grad(loss, (s, t))
    for a, b, c in zip(first, second, kept, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, c)
    gradients = torch.autograd.grad(symmetric_kl_loss(s, t), (s, t), create_graph=True)
    for gradient in gradients:
        with pytest.raises(RuntimeError, match="differentiable once"):
            gradient.square().sum().backward(retain_graph=True)


def test_second_derivatives_of_the_reference(generator: torch.Generator) -> None:
    """The reference has second derivatives in both logits: neither is a constant in the other's gradient."""
    s, t = (torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    with mlloss_cuda.use_backend("reference"):
        assert torch.autograd.gradgradcheck(symmetric_kl_loss, (s, t))


def test_functional_gradients(backend: Backend, generator: torch.Generator) -> None:
    s, t = inputs(generator, backend, (3, 40), torch.float32)
    got = torch.func.grad(symmetric_kl_loss, argnums=(0, 1))(s, t)
    expected = (evaluate(symmetric_kl_loss, s, t).gradient, evaluate(symmetric_kl_loss, t, s).gradient)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.func.jvp(lambda y: symmetric_kl_loss(s, y), (t,), (t,))


def test_vmap_of_both_gradients(backend: Backend, generator: torch.Generator) -> None:
    s, t = inputs(generator, backend, (5, 3, 40), torch.float32)
    gradients = torch.func.grad(symmetric_kl_loss, argnums=(0, 1))
    for samples, one in ((torch.func.vmap(gradients)(s, t), t), (torch.func.vmap(gradients, (0, None))(s, t[0]), None)):
        each = [gradients(s[i], t[0] if one is None else one[i]) for i in range(5)]
        for got, expected in zip(samples, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(got, torch.stack(expected), rtol=1e-6, atol=0)


def test_fullgraph(backend: Backend, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    s, t = (x.requires_grad_() for x in inputs(generator, backend, (3, 40), torch.float32))
    step = torch.compile(symmetric_kl_loss, fullgraph=True, backend="aot_eager")
    got, expected = step(s, t), symmetric_kl_loss(s, t)
    assert torch.equal(got, expected)
    for a, b in zip(torch.autograd.grad(got, (s, t)), torch.autograd.grad(expected, (s, t)), strict=True):
        torch.testing.assert_close(a, b)


X = torch.zeros(2, 3)
BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "logits", {"logits": [1.0]}),
    (TypeError, "other_logits", {"other_logits": [1.0]}),
    (TypeError, "other_logits", {"other_logits": X.double()}),
    (TypeError, "other_logits", {"other_logits": X.to_sparse()}),
    (ValueError, "other_logits", {"other_logits": torch.zeros(2, 4)}),
    (ValueError, "other_logits", {"other_logits": torch.zeros(2, 3, device="meta")}),
    (ValueError, "weight", {"weight": torch.ones(2)}),
    (ValueError, "sample_weight", {"sample_weight": -torch.ones(2)}),
    (TypeError, "logit_scale", {"logit_scale": "2"}),
    (ValueError, "normalizer", {"normalizer": 2.0}),
    (ValueError, "reduction", {"reduction": "max"}),
]


@pytest.mark.parametrize(("error", "name", "arguments"), BAD, ids=str)
def test_bad_arguments(error: type[Exception], name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=f"^{name}:"):
        symmetric_kl_loss(**{"logits": X, "other_logits": X, **arguments})


def test_function_and_module_take_the_same_arguments(generator: torch.Generator) -> None:
    function = inspect.signature(symmetric_kl_loss).parameters
    own = inspect.signature(SymmetricKLLoss).parameters
    assert list(function) == ["logits", "other_logits", "weight", "sample_weight", *list(own)[1:]]
    assert list(own) == list(SymmetricKLLoss._common)
    assert all(own[name].default == function[name].default == losses._arguments.DEFAULTS[name] for name in own)
    module = SymmetricKLLoss(weight=torch.rand(3, generator=generator), logit_scale=0.5, reduction="sum")
    s, t = torch.randn(2, 2, 3, generator=generator)
    rows = torch.rand(2, generator=generator)
    expected = symmetric_kl_loss(s, t, weight=module.weight, logit_scale=0.5, sample_weight=rows, reduction="sum")
    assert torch.equal(module(s, t, rows), expected)
    with pytest.raises(TypeError, match="label_smoothing"):
        SymmetricKLLoss(label_smoothing=0.1)  # type: ignore[call-arg]
