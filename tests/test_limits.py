"""Every loss at the corner cases of docs/numerics.md, in every layout of targets, on every backend.

The expected values are written by hand in limits.py. A fourth label is unknown in every row, in whichever form the
layout marks it, and its logit is NaN. The last row has a sample_weight of 0 and only NaN logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import CompoundLoss, CSRTargets, DiceLoss, SigmoidFocalLoss, ZLPRLoss, linear_loss, symmetric_kl_loss

from .conftest import Backend
from .limits import INF, LIMITS, NAN, SITUATIONS, WRONG, Expected, Limits, Row

pytestmark = pytest.mark.reference_too

UNKNOWN = -5.0  # unknown targets in the linear head's test


@dataclass(frozen=True)
class Layout:
    """A layout of targets: the dtype of dense ones, or CSR, and the values of unknown and wrong ones."""

    name: str
    make: Callable[[Tensor], Any]  # from float64 targets
    unknown: float | None = None  # None: marked by a weight of 0, or not supported
    wrong: float | None = None  # None: the layout has no such rows
    soft: bool = False
    ignore_index: float | None = None
    by_weight: bool = False


def dense(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda y: y.to(dtype)


def csr(y: Tensor) -> CSRTargets:
    return CSRTargets.from_dense(y.bool())


def csr_values(y: Tensor) -> CSRTargets:
    made = CSRTargets.from_dense(y)
    return CSRTargets(made.crow_indices.int(), made.col_indices.int(), made.num_labels, made.values)


def sparse_csr(y: Tensor) -> Tensor:
    made = CSRTargets.from_dense(y)
    assert made.values is not None
    return torch.sparse_csr_tensor(
        made.crow_indices, made.col_indices, made.values, tuple(y.shape), check_invariants=True
    )


def strided(y: Tensor) -> Tensor:
    return y.float().t().contiguous().t()


LAYOUTS = (
    Layout("bool", dense(torch.bool)),
    Layout("bool, weight of 0", dense(torch.bool), by_weight=True),
    Layout("uint8", dense(torch.uint8), 255, ignore_index=255),
    Layout("int8", dense(torch.int8), -1, -2, ignore_index=-1),
    Layout("int64", dense(torch.int64), -100, -1, ignore_index=-100),
    Layout("float32", dense(torch.float32), -1, NAN, soft=True, ignore_index=-1),
    Layout("float32, NaN unknown", dense(torch.float32), NAN, -1, soft=True, ignore_index=NAN),
    Layout("float32, weight of 0", dense(torch.float32), 0, -1, soft=True, by_weight=True),
    Layout("float32, a wrong target of weight 0", dense(torch.float32), NAN, -1, soft=True, by_weight=True),
    Layout("float64, NaN unknown", dense(torch.float64), NAN, -1, soft=True, ignore_index=NAN),
    Layout("bfloat16", dense(torch.bfloat16), 2, NAN, soft=True, ignore_index=2),
    Layout("float16, NaN unknown", dense(torch.float16), NAN, -INF, soft=True, ignore_index=NAN),
    Layout("strided, NaN unknown", strided, NAN, -1, soft=True, ignore_index=NAN),
    Layout("CSR", csr),
    Layout("CSR with values", csr_values, -1, NAN, soft=True),
    Layout("CSR with values, NaN unknown", csr_values, NAN, soft=True, ignore_index=NAN),
    Layout("sparse_csr", sparse_csr, -1, NAN, soft=True),
)


class Problem:
    """All situations of a table as one batch of a layout."""

    def __init__(self, limits: Limits, layout: Layout, device: str) -> None:
        self.names = [name for name, row in SITUATIONS.items() if _has(layout, row)]
        rows = [SITUATIONS[name] for name in self.names]
        logits = torch.tensor([row.logits for row in rows])
        targets = torch.tensor([row.targets for row in rows], dtype=torch.float64)
        targets[targets == WRONG] = math.nan if layout.wrong is None else layout.wrong
        self.known = logits.shape[1]
        self.weight: Tensor | None = None
        if layout.by_weight or layout.unknown is not None:
            logits = torch.cat([logits, torch.full((len(rows), 1), math.nan)], 1)
            unknown = 1.0 if layout.unknown is None else layout.unknown
            targets = torch.cat([targets, torch.full((len(rows), 1), unknown, dtype=torch.float64)], 1)
        if layout.by_weight:
            self.weight = torch.tensor([1.0, 1.0, 1.0, 0.0], device=device)
        # The last row has a sample_weight of 0.
        logits = torch.cat([logits, torch.full((1, logits.shape[1]), math.nan)])
        last = (targets[:1] > 0).double() if layout.wrong is None else torch.full_like(targets[:1], layout.wrong)
        targets = torch.cat([targets, last])
        self.logits = logits.to(device).requires_grad_()
        self.targets = layout.make(targets).to(device)
        self.sample_weight = torch.tensor([1.0] * len(rows) + [0.0], device=device)
        self.expected = [limits.rows[name] for name in self.names]

    def arguments(self, layout: Layout) -> dict[str, Any]:
        own = {"weight": self.weight, "ignore_index": layout.ignore_index}
        return {name: value for name, value in own.items() if value is not None}

    def check(self, value: Tensor, gradient: Tensor) -> None:
        each = value.dim() == 2
        for i, (name, expected) in enumerate(zip(self.names, self.expected, strict=True)):
            assert_same(f"{name}: value", value[i, : self.known] if each else value[i], expected.value)
            assert_same(f"{name}: gradient", gradient[i, : self.known], expected.gradient)
            assert gradient[i, self.known :].tolist() == [0.0] * (gradient.shape[1] - self.known), name
            if each:
                assert value[i, self.known :].tolist() == [0.0] * (value.shape[1] - self.known), name
        assert float(value[-1].abs().sum()) == 0
        assert float(gradient[-1].abs().sum()) == 0


def _has(layout: Layout, row: Row) -> bool:
    if WRONG in row.targets:
        return layout.wrong is not None
    return layout.soft or all(y in (0, 1) for y in row.targets)


def assert_same(what: str, got: Tensor, expected: Any) -> None:
    """Assert equality up to a few roundings; NaN, infinities and 0 must be exact."""
    exact = torch.tensor(expected, dtype=torch.float64)
    close = torch.isclose(
        got.detach().cpu().double(), exact, rtol=8 * torch.finfo(torch.float32).eps, atol=0.0, equal_nan=True
    )
    assert bool(close.all()), f"{what}: {got.tolist()}, expected {exact.tolist()}"


def layouts_for(engine: Backend, number: int) -> tuple[Layout, ...]:
    """Return every layout; for emulated or interpreted kernels only two, which differ from loss to loss."""
    if engine.name in ("emulated", "triton") and engine.device == "cpu":
        return LAYOUTS[number % len(LAYOUTS)], LAYOUTS[(number + 5) % len(LAYOUTS)]
    return LAYOUTS


def evaluate(call: Any, problem: Problem) -> tuple[Tensor, Tensor]:
    value = call(problem.logits, problem.targets, problem.sample_weight)
    # Values of rows, not their sum: an infinite row must not turn another row's gradient into NaN.
    (gradient,) = torch.autograd.grad(value, problem.logits, torch.ones_like(value))
    return value.detach(), gradient


@pytest.mark.parametrize("name", LIMITS)
def test_limits(backend: Backend, name: str) -> None:
    limits = LIMITS[name]
    for layout in layouts_for(backend, list(LIMITS).index(name)):
        if layout.by_weight and limits.loss.term().spec.softmax_over_labels:
            continue  # a label of weight 0 competes
        problem = Problem(limits, layout, backend.device)
        loss = type(limits.loss)(
            **{own: getattr(limits.loss, own) for own in limits.loss.own}, reduction="none", **problem.arguments(layout)
        )
        problem.check(*evaluate(loss, problem))


def test_limits_of_a_sum(backend: Backend) -> None:
    """The limits of terms in one pass add up."""
    terms = ((1.0, "zlpr"), (0.5, "dice"), (2.0, "focal"))
    losses = (ZLPRLoss(), DiceLoss(), SigmoidFocalLoss())
    for layout in layouts_for(backend, 5):
        problem = Problem(LIMITS["zlpr"], layout, backend.device)
        arguments = problem.arguments(layout)
        loss = CompoundLoss(
            [(c, own) for (c, _), own in zip(terms, losses, strict=True)], reduction="none", **arguments
        )
        problem.expected = [_summed(name, terms) for name in problem.names]
        problem.check(*evaluate(loss, problem))


def _summed(row: str, terms: tuple[tuple[float, str], ...]) -> Expected:
    value, gradient = 0.0, [0.0, 0.0, 0.0]
    for coefficient, name in terms:
        own = LIMITS[name].rows[row]
        value += coefficient * (sum(own.value) if isinstance(own.value, tuple) else own.value)
        gradient = [g + coefficient * o for g, o in zip(gradient, own.gradient, strict=True)]
    return Expected(value, tuple(gradient))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ("zlpr", "multi_positive_cross_entropy", "decoupled_softmax", "bce", "jaccard"))
@pytest.mark.parametrize("unknown", (-1.0, NAN), ids=str)
def test_limits_of_a_linear_head(backend: Backend, name: str, unknown: float) -> None:
    """The layer's bias makes logits infinite; a fourth label is unknown."""
    limits = LIMITS[name]
    own = {key: getattr(limits.loss, key) for key in limits.loss.own}
    loss = type(limits.loss)(**own, reduction="sum", ignore_index=unknown if math.isnan(unknown) else -1)
    inputs, weight = torch.zeros(1, 2, device=backend.device), torch.zeros(4, 2, device=backend.device)
    for row, expected in limits.rows.items():
        if WRONG in SITUATIONS[row].targets:
            continue
        bias = torch.tensor([*SITUATIONS[row].logits, NAN], device=backend.device, requires_grad=True)
        targets = torch.tensor([[*SITUATIONS[row].targets, unknown]], device=backend.device)
        value = linear_loss(inputs, weight, targets, loss, linear_bias=bias)
        (gradient,) = torch.autograd.grad(value, bias)
        each = isinstance(expected.value, tuple)
        assert_same(f"{row}: value", value, sum(expected.value) if each else expected.value)
        assert_same(f"{row}: gradient", gradient, (*expected.gradient, 0.0))


@pytest.mark.parametrize("name", ("zlpr", "lsep", "decoupled_softmax", "dice", "bce", "focal", "asymmetric"))
def test_harmless_infinities_add_nothing_to_the_scale_gradient(backend: Backend, name: str) -> None:
    limits, row = LIMITS[name], "a negative at -inf"
    scale = torch.tensor(1.0, device=backend.device, requires_grad=True)
    logits = torch.tensor([SITUATIONS[row].logits], device=backend.device)
    targets = torch.tensor([SITUATIONS[row].targets], device=backend.device)
    own = {key: getattr(limits.loss, key) for key in limits.loss.own}
    type(limits.loss)(**own, reduction="sum", logit_scale=torch.nn.Parameter(scale))
    value = limits.loss.function(logits, targets, **own, reduction="sum", logit_scale=scale)
    (gradient,) = torch.autograd.grad(value, scale)
    finite = zip(limits.rows[row].gradient, SITUATIONS[row].logits, strict=True)
    assert_same("scale", gradient, sum(g * s for g, s in finite if math.isfinite(s)))


def test_limits_of_the_symmetric_divergence(backend: Backend) -> None:
    """(sigmoid(s) - sigmoid(t)) (s - t): equal infinities diverge by 0, with no gradient."""
    s = torch.tensor([[INF, -INF, INF, INF, -INF, 1.0, NAN]], device=backend.device, requires_grad=True)
    t = torch.tensor([[INF, -INF, -INF, 1.0, 1.0, INF, 1.0]], device=backend.device, requires_grad=True)
    value = symmetric_kl_loss(s, t, reduction="none")
    grad_s, grad_t = torch.autograd.grad(value, (s, t), torch.ones_like(value))
    low, high = 1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-1.0))
    assert_same("value", value, [[0.0, 0.0, INF, INF, INF, INF, NAN]])
    assert_same("gradient in s", grad_s, [[0.0, 0.0, 1.0, low, -high, -INF, NAN]])
    assert_same("gradient in t", grad_t, [[0.0, 0.0, -1.0, -INF, INF, low, NAN]])


def test_no_known_label_and_a_normalizer_of_0(backend: Backend) -> None:
    """The mean over no elements is NaN, as in torch, and its gradient at unknown labels is 0."""
    for name, limits in LIMITS.items():
        logits = torch.randn(2, 3).to(backend.device).requires_grad_()
        targets = torch.full((2, 3), -1, device=backend.device)
        own = {key: getattr(limits.loss, key) for key in limits.loss.own}
        for normalizer in (0.0, torch.tensor(0.0, device=backend.device)):
            loss = type(limits.loss)(**own, reduction="sum", ignore_index=-1, normalizer=normalizer)
            value = loss(logits, targets)
            (gradient,) = torch.autograd.grad(value, logits)
            assert math.isnan(float(value.detach())), name
            assert gradient.tolist() == [[0.0] * 3] * 2, name
