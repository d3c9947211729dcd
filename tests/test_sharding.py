"""Labels on several processes: for any slices, the loss equals that of one process."""

from __future__ import annotations

import copy
import itertools
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import mlloss_cuda
from mlloss_cuda import (
    BCEWithLogitsLoss,
    CSRTargets,
    DecoupledSoftmaxLoss,
    DiceLoss,
    FusedAdam,
    FusedSGD,
    LinearLoss,
    SigmoidFocalLoss,
    SymmetricKLLoss,
    ZLPRLoss,
    linear_loss,
    shard_labels,
)
from mlloss_cuda.sharding.shards import LabelShards, chunk_sizes

from .cases import all_cases
from .inputs import random_logits, random_positives, random_probabilities
from .limits import LIMITS, SITUATIONS, WRONG
from .ranks import Ranks, group_of

# Numbers of labels on each rank, by the number of ranks: all 53, one label, none, and similar slices.
SLICES = {1: (53,), 2: (52, 1), 3: (30, 0, 23), 4: (1, 0, 17, 35)}
LABELS, ROWS, FEATURES = 53, 6, 9

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    processes = Ranks(4)
    yield processes
    processes.close()


def test_one_process_runs_these_tests(request: pytest.FixtureRequest) -> None:
    """pytest-xdist adds its group to a test's name; without groups, each of its processes starts ranks of its own."""
    grouped = request.config.getoption("loadgroup", default=False)
    assert not grouped or request.node.nodeid.endswith("@ranks")


@pytest.fixture
def seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


class Problem:
    """All logits and targets, which are the same on every rank, and the columns of this rank."""

    def __init__(self, rank: int, count: int, seed: int, dtype: torch.dtype = torch.float64) -> None:
        self.rank, self.count, self.group = rank, count, group_of(count)
        self.sizes = SLICES[count]
        first = sum(self.sizes[:rank])
        self.own = slice(first, first + self.sizes[rank])
        self.generator = torch.Generator().manual_seed(seed)
        self.logits = random_logits(self.generator, (ROWS, LABELS), dtype, "cpu")
        self.positives = random_positives(self.generator, (ROWS, LABELS))
        self.csr = CSRTargets.from_dense(self.positives)
        self.weight = torch.rand(LABELS, generator=self.generator) + 0.5
        self.rows = torch.rand(ROWS, generator=self.generator)
        self.grad_output = float(torch.rand((), generator=self.generator)) + 0.5

    def targets(self, layout: str) -> tuple[Any, Any]:
        """Return all targets, and those that the rank passes."""
        if layout == "dense":
            return self.positives, self.positives[:, self.own]
        if layout == "dense, all":
            return self.positives, self.positives
        return self.csr, self.csr if layout == "csr, all" else self.csr.label_range(self.own.start, self.own.stop)

    def leaf(self) -> Tensor:
        return self.logits.clone().requires_grad_()

    def own_leaf(self) -> Tensor:
        return self.logits[:, self.own].clone().requires_grad_()


LAYOUTS = ("dense", "dense, all", "csr, all", "csr")


def _assert_same(
    problem: Problem, make: Callable[[], nn.Module], layout: str, sample_weight: Tensor | None = None
) -> None:
    """Assert that value and gradients of a sharded loss equal those of one process."""
    whole, own = problem.targets(layout)
    one, several = make(), make()
    logits, local = problem.leaf(), problem.own_leaf()
    expected = one(logits, whole, sample_weight)
    found = shard_labels(several, problem.group)(local, own, sample_weight)  # type: ignore[arg-type]
    if expected.dim() and expected.shape[-1] == LABELS:  # a value for each label: this rank's
        torch.testing.assert_close(found, expected[..., problem.own])
    else:
        torch.testing.assert_close(found, expected)
    (problem.grad_output * expected).sum().backward()
    (problem.grad_output * found).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(local.grad, logits.grad[:, problem.own])
    for p, q in zip(one.parameters(), several.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def _every_loss(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed)
    layouts = itertools.cycle(LAYOUTS)
    for case in all_cases():
        layout, other = next(layouts), next(layouts)
        _assert_same(problem, lambda case=case: case.module(**case.own), layout)
        if case.path:
            for reduction in ("sum", "batchmean", "none"):
                rows_only = "terms" in case.own and reduction == "none"
                if rows_only and case.module(**case.own).terms_on("cpu")[0].grouping not in ("element", "samples"):
                    continue
                arguments = {**case.own, "reduction": reduction}
                _assert_same(
                    problem, lambda case=case, arguments=arguments: case.module(**arguments), other, problem.rows
                )


@pytest.mark.parametrize("count", SLICES)
def test_every_loss(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _every_loss, count, seed)


def _limits(rank: int, count: int, engine: str) -> None:
    """Check rows of three known labels and an unknown one, of which a rank has some or none."""
    sizes = {2: (1, 3), 3: (2, 0, 2)}[count]
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    with mlloss_cuda.use_backend(engine):
        for name, limits in LIMITS.items():
            arguments = {key: getattr(limits.loss, key) for key in limits.loss.own}
            loss = type(limits.loss)(**arguments, reduction="none", ignore_index=math.nan)
            for sparse in (False, True):
                rows = [row for row in limits.rows if not (sparse and WRONG in SITUATIONS[row].targets)]
                logits = torch.tensor([[*SITUATIONS[row].logits, math.nan] for row in rows])[:, own].requires_grad_()
                dense = torch.tensor([[*SITUATIONS[row].targets, math.nan] for row in rows])
                targets = CSRTargets.from_dense(dense) if sparse else dense[:, own]
                value = shard_labels(loss, group_of(count))(logits, targets)
                (gradient,) = torch.autograd.grad(value, logits, torch.ones_like(value))
                gradients = torch.tensor([[*limits.rows[row].gradient, 0.0] for row in rows])[:, own]
                values = [limits.rows[row].value for row in rows]
                each = [[*v, 0.0] if isinstance(v, tuple) else v for v in values]
                expected = torch.tensor(each)[:, own] if value.dim() == 2 else torch.tensor(each)
                close = {"equal_nan": True, "msg": lambda text, name=name: f"{name}: {text}"}
                torch.testing.assert_close(value.detach(), expected, **close)
                torch.testing.assert_close(gradient, gradients, **close)


@pytest.mark.parametrize("count", (2, 3))
@pytest.mark.parametrize("engine", ("cpu", "reference"))
def test_limits_on_any_rank(ranks: Ranks, count: int, engine: str) -> None:
    """NaN, infinities and unknown labels on another rank give the hand-written values for one process."""
    ranks.run(count, _limits, count, engine)


def _options_of_all_labels(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed)
    w = problem.weight

    def learned(value: Any) -> nn.Parameter:
        return nn.Parameter(torch.as_tensor(value, dtype=torch.float64).clone())

    makes: list[Callable[[], nn.Module]] = [
        lambda: ZLPRLoss(weight=w, label_smoothing=0.1),
        lambda: BCEWithLogitsLoss(pos_weight=w + 1, weight=w, label_smoothing=0.2),
        lambda: ZLPRLoss(threshold=learned(0.3), logit_scale=learned(1.3)),
        lambda: ZLPRLoss(threshold=learned(w)),
        lambda: ZLPRLoss(threshold=learned(torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(seed)))),
        lambda: BCEWithLogitsLoss(logit_bias=learned(w), logit_scale=learned(0.7)),
        lambda: DiceLoss(average="macro", weight=w, logit_bias=learned(w)),
        lambda: DiceLoss(average="micro", logit_scale=learned(0.5)),
        lambda: DecoupledSoftmaxLoss(weight=w, logit_bias=learned(w)),
        lambda: SigmoidFocalLoss(rescale=True, weight=w),
        lambda: (
            ZLPRLoss(threshold=learned(0.1))
            + 0.5 * SigmoidFocalLoss()
            + DiceLoss(average="macro", logit_bias=learned(w))
        ),
        lambda: mlloss_cuda.CompoundLoss([(1.0, ZLPRLoss()), (2.0, BCEWithLogitsLoss())], reduction="mean", weight=w),
        lambda: ZLPRLoss(reduction="sum", normalizer=7.0),
    ]
    for make, layout in zip(makes, itertools.cycle(LAYOUTS), strict=False):
        _assert_same(problem, make, layout)
        _assert_same(problem, make, layout, problem.rows)


@pytest.mark.parametrize("count", SLICES)
def test_weights_smoothing_thresholds_and_scales_cover_all_labels(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _options_of_all_labels, count, seed)


def _rounding(rank: int, count: int, seed: int) -> None:
    for case in all_cases():
        if not case.path:
            continue
        problem = Problem(rank, count, seed, torch.float32)
        exact = problem.logits.double().requires_grad_()
        case.module(**case.own)(exact, problem.csr).backward()
        logits, local = problem.leaf(), problem.own_leaf()
        case.module(**case.own)(logits, problem.csr).backward()
        shard_labels(case.module(**case.own), problem.group)(local, problem.csr).backward()
        assert exact.grad is not None
        assert logits.grad is not None
        assert local.grad is not None
        alone = (logits.grad - exact.grad).abs().max()
        found = (local.grad - exact.grad[:, problem.own]).abs()
        allowed = 2 * alone + torch.finfo(torch.float32).eps * exact.grad.abs().max()
        assert not found.numel() or found.max() <= allowed, (case.label, float(found.max()), float(allowed))


@pytest.mark.parametrize("count", (2, 4))
def test_float32_errors_are_those_of_one_process(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _rounding, count, seed)


def _same_bits(rank: int, count: int, seed: int) -> list[float]:
    problem = Problem(rank, count, seed, torch.float32)
    found = []
    for make in (ZLPRLoss, BCEWithLogitsLoss, DecoupledSoftmaxLoss, lambda: ZLPRLoss() + DiceLoss()):
        loss = shard_labels(make(), problem.group)
        runs = []
        for _ in range(2):
            local = problem.own_leaf()
            value = loss(local, problem.csr)
            value.backward(retain_graph=True)
            first = local.grad
            local.grad = None
            value.backward()
            assert torch.equal(first, local.grad)  # type: ignore[arg-type]
            runs.append((value.detach(), local.grad))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        with torch.no_grad():
            found.append(float(loss(local, problem.csr)))
        assert found[-1] == float(runs[0][0])
    return found


def test_bitwise_equal_on_every_rank_and_run(ranks: Ranks, seed: int) -> None:
    values = ranks.run(4, _same_bits, 4, seed)
    assert values[0] == values[1] == values[2] == values[3]


def _with_elements(scale: nn.Parameter) -> mlloss_cuda.CompoundLoss:
    terms = [(1.0, ZLPRLoss()), (2.0, BCEWithLogitsLoss(logit_scale=scale))]
    return mlloss_cuda.CompoundLoss(terms, reduction="none")


def _others(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed)
    # With a backend that does not take parts, each rank gathers all logits.
    with mlloss_cuda.use_backend("reference"):
        for make, layout in itertools.product(
            (ZLPRLoss, DiceLoss, lambda: BCEWithLogitsLoss(reduction="none")), LAYOUTS
        ):
            _assert_same(problem, make, layout)
        # Learned arguments have the gradient of all ranks, although a rank returns the values of its own labels only.
        for loss in (BCEWithLogitsLoss, lambda **common: DiceLoss(average="macro", **common)):
            _assert_same(
                problem,
                lambda loss=loss: loss(
                    reduction="none",
                    logit_scale=nn.Parameter(torch.tensor(1.5, dtype=torch.float64)),
                    logit_bias=nn.Parameter(problem.weight.double()),
                ),
                "dense",
            )
        _assert_same(problem, lambda: _with_elements(nn.Parameter(torch.tensor(0.5, dtype=torch.float64))), "csr")
    # Probabilities, unknown labels.
    soft = random_probabilities(problem.generator, (ROWS, LABELS))
    unknown = torch.where(soft > 0.8, -1, (soft > 0.6).int())
    for make, whole_targets in (
        (ZLPRLoss, soft),
        (lambda: BCEWithLogitsLoss(label_smoothing=0.1), soft),
        (lambda: ZLPRLoss(ignore_index=-1), unknown),
        (lambda: DiceLoss(average="micro", ignore_index=-1), unknown),
        (lambda: DecoupledSoftmaxLoss(ignore_index=-1, label_smoothing=0.1), unknown),
    ):
        problem.positives, problem.csr = whole_targets, CSRTargets.from_dense(whole_targets)
        for layout in LAYOUTS:
            _assert_same(problem, make, layout)
    problem.positives, problem.csr = soft > 0.6, CSRTargets.from_dense(soft > 0.6)
    # Two logits, both differentiated.
    other = problem.logits.flip(0).clone().requires_grad_()
    own_other = other.detach()[:, problem.own].clone().requires_grad_()
    logits, local = problem.leaf(), problem.own_leaf()
    SymmetricKLLoss()(logits, other).backward()
    found = shard_labels(SymmetricKLLoss(), problem.group)(local, own_other)
    found.backward()
    assert logits.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(local.grad, logits.grad[:, problem.own])
    torch.testing.assert_close(own_other.grad, other.grad[:, problem.own])
    # A row's elements lie on all ranks.
    soft_bce = BCEWithLogitsLoss(label_smoothing=0.1)  # it runs in a separate pass
    _assert_same(
        problem, lambda: mlloss_cuda.CompoundLoss([(1.0, ZLPRLoss()), (2.0, soft_bce)], reduction="none"), "dense"
    )
    # The gradient in the logits' place, and each term's value.
    made = problem.own_leaf() * 1
    compound = ZLPRLoss() + BCEWithLogitsLoss()
    whole = ZLPRLoss() + BCEWithLogitsLoss()
    whole(problem.logits, problem.csr)
    shard_labels(compound, problem.group)(made, problem.csr)
    torch.testing.assert_close(compound.values, whole.values)
    in_place = shard_labels(ZLPRLoss(inplace_backward=True), problem.group)
    (gradient,) = torch.autograd.grad(in_place(made, problem.csr), made)
    assert gradient.data_ptr() == made.data_ptr() or not made.numel()
    assert copy.deepcopy(in_place)(problem.own_leaf() * 1, problem.csr).isfinite()
    # Rows in more dimensions.
    shape = (2, ROWS // 2)
    deep = shard_labels(ZLPRLoss(reduction="none"), problem.group)
    found = deep(
        problem.logits[:, problem.own].unflatten(0, shape), problem.positives[:, problem.own].unflatten(0, shape)
    )
    torch.testing.assert_close(found, ZLPRLoss(reduction="none")(problem.logits, problem.csr).view(shape))


@pytest.mark.parametrize("count", (1, 3))
def test_reference_two_logits_in_place_and_leading_dimensions(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _others, count, seed)


# ---- around a model ----


def _in_a_model(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed, torch.float32)
    torch.manual_seed(seed)
    whole, encoder = nn.Linear(FEATURES, LABELS), nn.Linear(FEATURES, FEATURES)
    inputs = torch.randn(ROWS, FEATURES)
    own = nn.utils.skip_init(nn.Linear, FEATURES, problem.sizes[rank])
    with torch.no_grad():
        own.weight.copy_(whole.weight[problem.own])
        own.bias.copy_(whole.bias[problem.own])
    ZLPRLoss()(whole(encoder(inputs)), problem.csr).backward()
    expected = whole.weight.grad[problem.own]  # type: ignore[index]
    loss = shard_labels(ZLPRLoss(), problem.group)

    def forward(x: Tensor) -> Tensor:
        return loss(own(encoder(x)), problem.csr)

    steps: list[Callable[[], None]] = [
        lambda: forward(inputs).backward(),
        lambda: checkpoint(forward, inputs, use_reentrant=False).backward(),
        lambda: torch.compile(forward, backend="eager")(inputs).backward(),
        # Two batches of half of the rows, one after the other.
        lambda: [
            (loss(own(encoder(inputs[half])), problem.csr[half]) / 2).backward()  # type: ignore[func-returns-value]
            for half in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
        ],
    ]
    for step in steps:
        own.zero_grad()
        step()
        torch.testing.assert_close(own.weight.grad, expected)


def test_checkpointing_compile_and_accumulation(ranks: Ranks, seed: int) -> None:
    ranks.run(3, _in_a_model, 3, seed)


def _two_dimensions(rank: int, seed: int) -> None:
    """Rows are split over one dimension of a mesh, by DDP, and labels over the other."""
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "labels"))
    rows, labels = mesh["rows"].get_group(), mesh["labels"].get_group()
    torch.manual_seed(seed)
    inputs, positives = torch.randn(ROWS, FEATURES), torch.rand(ROWS, LABELS) < 0.2
    encoder, whole = nn.Linear(FEATURES, FEATURES), LinearLoss(FEATURES, LABELS, ZLPRLoss())
    model = nn.ModuleDict({"encoder": nn.Linear(FEATURES, FEATURES)})
    model["head"] = LinearLoss(FEATURES, LABELS, ZLPRLoss(), process_group=labels, local_labels=(40, 13)[labels.rank()])
    own = slice(0, 40) if labels.rank() == 0 else slice(40, LABELS)
    with torch.no_grad():
        model["encoder"].load_state_dict(encoder.state_dict())
        model["head"].weight.copy_(whole.weight[own])
        model["head"].bias.copy_(whole.bias[own])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor, y: CSRTargets) -> Tensor:
            return self.parts["head"](self.parts["encoder"](x), y)

    parallel = nn.parallel.DistributedDataParallel(Model(), process_group=rows)
    batch = slice(0, ROWS // 2) if rows.rank() == 0 else slice(ROWS // 2, ROWS)
    parallel(inputs[batch], CSRTargets.from_dense(positives[batch])).backward()
    whole(encoder(inputs), positives).backward()
    torch.testing.assert_close(model["encoder"].weight.grad, encoder.weight.grad)
    torch.testing.assert_close(model["head"].weight.grad, whole.weight.grad[own])  # type: ignore[index]


def test_with_data_parallelism(ranks: Ranks, seed: int) -> None:
    ranks.run(4, _two_dimensions, seed)


# ---- the head ----


def _heads(problem: Problem, loss: Callable[[], nn.Module], **arguments: Any) -> tuple[LinearLoss, LinearLoss]:
    """Return a head of all labels, and this rank's head with the same weights."""
    whole = LinearLoss(FEATURES, LABELS, loss(), dtype=torch.float64)  # type: ignore[arg-type]
    placed = {"process_group": problem.group, "local_labels": problem.sizes[problem.rank]}
    own = LinearLoss(FEATURES, LABELS, loss(), dtype=torch.float64, **placed, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        whole.weight.normal_(generator=problem.generator)
        whole.bias.normal_(generator=problem.generator)
        own.weight.copy_(whole.weight[problem.own])
        own.bias.copy_(whole.bias[problem.own])
    return whole, own


def _linear(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed)
    threshold = torch.tensor(0.2, dtype=torch.float64)
    losses: list[Callable[[], nn.Module]] = [
        BCEWithLogitsLoss,
        lambda: BCEWithLogitsLoss(reduction="batchmean", label_smoothing=0.1),
        ZLPRLoss,
        lambda: ZLPRLoss(reduction="none"),
        lambda: ZLPRLoss(threshold=nn.Parameter(threshold.clone()), weight=problem.weight, label_smoothing=0.1),
        DecoupledSoftmaxLoss,
        lambda: DiceLoss(average="macro"),
        lambda: DiceLoss(average="micro"),
        lambda: ZLPRLoss() + 0.5 * SigmoidFocalLoss() + DiceLoss(average="macro"),
        lambda: BCEWithLogitsLoss(logit_bias=nn.Parameter(problem.weight.double())),
    ]
    cuts: tuple[dict[str, Any], ...] = ({}, {"chunk_size": 7}, {"memory_budget": 1})
    for (loss, cut), layout in zip(itertools.product(losses, cuts), itertools.cycle(LAYOUTS), strict=False):
        whole, own = _heads(problem, loss, **cut)
        everything, handed = problem.targets(layout)
        x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=problem.generator)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected = whole.loss(F.linear(a, whole.weight, whole.bias), everything, problem.rows)
        found = own(b, handed, problem.rows)
        torch.testing.assert_close(found, expected)
        for _ in range(2):  # the gradients of two backward passes add up
            (problem.grad_output * expected).sum().backward(retain_graph=True)
            (problem.grad_output * found).sum().backward(retain_graph=True)
        torch.testing.assert_close(b.grad, a.grad)
        torch.testing.assert_close(own.weight.grad, whole.weight.grad[problem.own])  # type: ignore[index]
        torch.testing.assert_close(own.bias.grad, whole.bias.grad[problem.own])  # type: ignore[index]
        for p, q in zip(whole.loss.parameters(), own.loss.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad)
        with torch.no_grad():
            torch.testing.assert_close(own(x, handed, problem.rows), expected.detach())


@pytest.mark.parametrize("count", SLICES)
def test_linear_loss(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _linear, count, seed)


def _linear_updates_and_topk(rank: int, count: int, seed: int) -> None:
    problem = Problem(rank, count, seed)
    x = torch.randn(ROWS, FEATURES, dtype=torch.float64, generator=problem.generator)
    # Updates inside backward.
    whole, own = _heads(problem, ZLPRLoss, fused_update=FusedSGD(0.1, momentum=0.9))
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        whole(x, problem.csr).backward()
        optimizer.step()
        own(x, problem.csr).backward()
    torch.testing.assert_close(own.weight, whole.weight[problem.own])
    # topk, with ties and excluded labels.
    with torch.no_grad():
        whole.weight.round_()
        whole.bias.zero_()
        own.weight.copy_(whole.weight[problem.own])
        own.bias.zero_()
    for k, budget in ((1, None), (5, 1), (40, None), (LABELS, None)):
        own.memory_budget = budget
        for exclude in (None, problem.csr):
            mine = exclude and exclude.label_range(problem.own.start, problem.own.stop)
            expected = whole.topk(x.round(), k, exclude)
            for handed in (exclude, mine):
                found = own.topk(x.round(), k, handed)
                torch.testing.assert_close(found.values, expected.values)
                assert torch.equal(found.indices, expected.indices)
    # Ranks with different plans send the same data: bfloat16 gradients are summed in float32.
    half = LinearLoss(FEATURES, LABELS, BCEWithLogitsLoss(), dtype=torch.bfloat16)
    placed: dict[str, Any] = {"process_group": problem.group, "local_labels": problem.sizes[rank]}
    cut = LinearLoss(
        FEATURES, LABELS, BCEWithLogitsLoss(), dtype=torch.bfloat16, memory_budget=1 + 999 * rank, **placed
    )
    with torch.no_grad():
        half.weight.copy_(whole.weight)
        cut.weight.copy_(whole.weight[problem.own])
    a, b = x.bfloat16().requires_grad_(), x.bfloat16().requires_grad_()
    half(a, problem.csr).backward()
    cut(b, problem.csr).backward()
    for found, expected in ((b.grad, a.grad), (cut.weight.grad, half.weight.grad[problem.own])):  # type: ignore[index]
        assert expected is not None
        most = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=0.0, atol=2**-7 * most)
    one, several = _heads(problem, ZLPRLoss)
    with mlloss_cuda.use_backend("reference"):
        mixed = problem.targets(("dense", "csr, all", "csr")[rank % 3])[1]
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, found = one(a, problem.csr), several(b, mixed)
        torch.testing.assert_close(found, expected)
        expected.backward()
        found.backward()
        torch.testing.assert_close(b.grad, a.grad)
        torch.testing.assert_close(several.weight.grad, one.weight.grad[problem.own])  # type: ignore[index]
    assert copy.deepcopy(FusedSGD()).__dict__["_first_label"] == 0
    assert copy.deepcopy(own.fused_update)._first_label == problem.own.start  # type: ignore[union-attr]
    found = torch.compile(lambda x: own.topk(x, 3), backend="eager")(x)
    torch.testing.assert_close(found.values, whole.topk(x, 3).values)
    assert copy.deepcopy(own).shards is own.shards
    # Each rank initialises its own labels, and plans for them.
    torch.manual_seed(seed)
    drawn = LinearLoss(FEATURES, 8 * count, ZLPRLoss(), process_group=problem.group)
    every = drawn.shards.gather(drawn.weight.detach())  # type: ignore[union-attr]
    assert count == 1 or not torch.equal(every[0], every[1])
    plan = drawn.plan(ROWS)
    assert (plan.labels, plan.sharded, plan.matrix_products) == (8, count > 1, 3)
    assert f"local_labels={8}" in repr(drawn)


@pytest.mark.parametrize("count", (1, 3, 4))
def test_linear_updates_topk_and_initialisation(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _linear_updates_and_topk, count, seed)


# ---- DTensors ----


def _mesh(count: int) -> Any:
    return distributed.device_mesh.DeviceMesh.from_group(group_of(count), "cpu", mesh_dim_names=("labels",))


def _dtensors(rank: int, count: int, seed: int) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    problem, mesh = Problem(rank, count, seed), _mesh(count)
    for loss, targets in ((ZLPRLoss(), problem.csr), (ZLPRLoss() + BCEWithLogitsLoss(), problem.positives)):
        logits = problem.leaf()
        expected = loss(logits, targets)
        expected.backward()
        sharded = distribute_tensor(problem.logits, mesh, [Shard(1)]).requires_grad_()
        handed = distribute_tensor(targets, mesh, [Shard(1)]) if isinstance(targets, Tensor) else targets
        found = loss(sharded, handed)
        torch.testing.assert_close(found, expected)
        found.backward()
        assert sharded.grad is not None
        torch.testing.assert_close(sharded.grad.full_tensor(), logits.grad)
    found = mlloss_cuda.zlpr_loss(sharded, problem.csr)
    torch.testing.assert_close(found, mlloss_cuda.zlpr_loss(problem.logits, problem.csr))
    compiled = torch.compile(lambda x: ZLPRLoss()(x * 1, problem.csr), backend="eager")
    torch.testing.assert_close(compiled(sharded), ZLPRLoss()(problem.logits, problem.csr))
    for decide in (ZLPRLoss().predict, lambda x: mlloss_cuda.fit_thresholds(x, problem.positives)):
        with pytest.raises(TypeError, match="logits: expected a tensor of all labels, got a DTensor"):
            decide(sharded)
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), process_group=mesh)
    x = torch.randn(ROWS, FEATURES, generator=problem.generator)
    whole = distribute_tensor(x, mesh, [Replicate()])
    torch.testing.assert_close(head(whole, problem.csr), head(x, problem.csr))
    with pytest.raises(ValueError, match=r"input: expected a tensor, or a DTensor with Replicate\(\)"):
        head(distribute_tensor(x, mesh, [Shard(0)]), problem.csr)
    for placements in ([Replicate()], [Shard(0)]):
        with pytest.raises(ValueError, match=r"logits: expected a DTensor with Shard\(1\), its labels"):
            ZLPRLoss()(distribute_tensor(problem.logits, mesh, placements), problem.csr)


@pytest.mark.parametrize("count", (1, 2, 4))
def test_dtensors(ranks: Ranks, seed: int, count: int) -> None:
    ranks.run(count, _dtensors, count, seed)


def _on_a_mesh(rank: int, count: int, seed: int, folder: str, load: bool) -> list[list[float]]:
    """Train and save a head whose parameters are DTensors, or load it; then take one more step."""
    from torch.distributed import checkpoint as saved
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    problem, mesh = Problem(rank, count, seed, torch.float32), _mesh(count)
    head = LinearLoss(FEATURES, LABELS, ZLPRLoss(), process_group=mesh)
    x = torch.randn(ROWS, FEATURES, generator=problem.generator)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
    if not load:
        for _ in range(2):
            optimizer.zero_grad()
            head(x, problem.csr).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
            optimizer.step()
    model_state, optimizer_state = get_state_dict(head, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    if load:
        saved.load(state, checkpoint_id=folder, process_group=problem.group)
        set_state_dict(head, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    else:
        saved.save(state, checkpoint_id=folder, process_group=problem.group)
    # One more step, which also needs the moments.
    optimizer.zero_grad()
    head(x, problem.csr).backward()
    optimizer.step()
    found = linear_loss(x, head.weight, problem.csr, ZLPRLoss(), linear_bias=head.bias)
    torch.testing.assert_close(found, head(x, problem.csr))
    return head.weight.full_tensor().tolist()  # type: ignore[attr-defined]


def test_checkpoints_load_on_another_number_of_ranks(ranks: Ranks, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained = ranks.run(3, _on_a_mesh, 3, seed, folder, False)
        for count in (1, 2, 4):
            loaded = ranks.run(count, _on_a_mesh, count, seed, folder, True)
            torch.testing.assert_close(torch.tensor(loaded[0]), torch.tensor(trained[0]), rtol=1e-5, atol=1e-6)


def _updated_inside_backward(rank: int, count: int, seed: int, folder: str, load: bool) -> list[list[float]]:
    """Do the same with a head whose weights are updated in backward, by the head's own checkpoint."""
    from torch.distributed import checkpoint as saved

    problem = Problem(rank, count, seed, torch.float32)
    update = FusedAdam(0.05, state_dtype=torch.float32)
    loss = ZLPRLoss(threshold=nn.Parameter(torch.zeros(())))
    head = LinearLoss(FEATURES, LABELS, loss, process_group=problem.group, fused_update=update)
    x = torch.randn(ROWS, FEATURES, generator=problem.generator)
    if load:
        saved.load({"head": head.checkpoint()}, checkpoint_id=folder, process_group=problem.group)
    else:
        loss.threshold.data.fill_(0.25)  # type: ignore[union-attr]
        head(x, problem.csr).backward()
        update.param_groups[0]["lr"] = 0.03
        head(x, problem.csr).backward()
        saved.save({"head": head.checkpoint()}, checkpoint_id=folder, process_group=problem.group)
    assert float(loss.threshold) == 0.25
    assert update.param_groups[0]["lr"] == 0.03
    head(x, problem.csr).backward()
    assert update.state[head.weight]["step"] == 3
    return head.checkpoint().state_dict()["weight"].full_tensor().tolist()


def test_checkpoints_of_weights_updated_inside_backward(ranks: Ranks, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trained = ranks.run(3, _updated_inside_backward, 3, seed, folder, False)
        for count in (1, 2, 4):
            loaded = ranks.run(count, _updated_inside_backward, count, seed, folder, True)
            torch.testing.assert_close(torch.tensor(loaded[0]), torch.tensor(trained[0]), rtol=1e-5, atol=1e-6)


# ---- communication ----


class Wire(TorchDispatchMode):
    """A count of the bytes that this rank passes to collectives."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            # The input is the first argument of all-reduces and list gathers, the second of gathers into a tensor.
            given = args[1] if "base" in name or "single" in name else args[0]
            tensors = given if isinstance(given, (list, tuple)) else [given]
            self.sent.append((name, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return func(*args, **(kwargs or {}))


def _bytes_sent(rank: int, labels: int, rows: int) -> dict[str, Any]:
    group = group_of(2)
    own = LabelShards.chunked(group, labels).own
    csr = CSRTargets.from_lists([[i % labels] for i in range(rows)], labels)
    found: dict[str, Any] = {}
    for loss in (ZLPRLoss(), BCEWithLogitsLoss(), DecoupledSoftmaxLoss(), ZLPRLoss() + SigmoidFocalLoss() + DiceLoss()):
        name = "+".join(term.spec.name for term in loss.terms_on("cpu"))
        sharded = shard_labels(loss, group)
        logits = torch.zeros(rows, own.stop - own.start, requires_grad=True)
        sharded(logits, csr)  # the first call gathers the sizes
        with Wire() as wire:
            sharded(logits, csr).backward()
        found[name] = wire.sent
        head = LinearLoss(FEATURES, labels, loss, process_group=group)
        with Wire() as wire:
            head(torch.zeros(rows, FEATURES, requires_grad=True), csr).backward()
        found["linear " + name] = wire.sent
    return found


def test_bytes_on_the_wire(ranks: Ranks) -> None:
    """The bytes depend on the rows and not on the labels; a head also sends its input's gradient."""
    rows = 16
    few, many = (ranks.run(2, _bytes_sent, labels, rows)[0] for labels in (64, 4096))
    assert few == many
    agreement = 8  # bytes of the check that ranks agree
    for name, sent in few.items():
        loss = name.removeprefix("linear ")
        gathers = [size for kind, size in sent if "allreduce" not in kind]
        reduced = [size for kind, size in sent if "allreduce" in kind]
        counts = mlloss_cuda._ops.counts_of(loss)
        if loss == "bce_with_logits":
            expected = [agreement, 4]  # the rank's share of the loss, in float32
        else:
            expected = [agreement, 8 * rows * counts.statistics]
            if counts.second_pass_sums:
                expected.append(8 * rows * counts.second_pass_sums)
        assert gathers == expected, (name, sent)
        assert reduced == ([4 * rows * FEATURES] if name.startswith("linear") else []), (name, sent)


# ---- failures ----


def _message(run: Callable[[], Any]) -> str:
    try:
        run()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _head_disagreements(rank: int, what: str) -> str:
    group = group_of(2)
    if what == "local labels":
        bad: Any = "five" if rank else 5
        return _message(lambda: LinearLoss(4, 10, ZLPRLoss(), process_group=group, local_labels=bad))
    head = LinearLoss(4, 10, ZLPRLoss(), process_group=group)
    if what == "topk":
        return _message(lambda: head.topk(torch.zeros(3, 4), 2 + rank))
    if what == "topk's failure":
        return _message(lambda: head.topk(torch.zeros(3, 4), 2 + 9 * rank))
    inputs = torch.zeros(3, 4 + (what == "input" and rank), requires_grad=what == "gradient" and rank == 0)
    return _message(lambda: head(inputs, torch.zeros(3, 5)))


def _disagreements(rank: int, what: str) -> str:
    group = group_of(2)
    if what in ("local labels", "topk", "topk's failure", "input", "gradient"):
        return _head_disagreements(rank, what)
    loss = {"loss": (ZLPRLoss, DiceLoss)}.get(what, (ZLPRLoss, ZLPRLoss))[rank]()
    rows = {"rows": (3, 4)}.get(what, (3, 3))[rank]
    dtype = {"dtype": (torch.float32, torch.float64)}.get(what, (torch.float32, torch.float32))[rank]
    sharded = shard_labels(loss, group)
    if what != "loss":
        sharded(torch.zeros(1, 5), torch.zeros(1, 5))  # this call succeeds
    if what in ("threshold", "label_smoothing", "logit_scale"):
        setattr(loss, what, (0.25, 0.5)[rank])
    logits = torch.zeros(rows, 5, dtype=dtype)
    targets = torch.zeros(rows, 6 if what == "failure" and rank == 1 else 5)
    if what == "linear":
        head = LinearLoss(4, 10, loss, process_group=group)
        return _message(lambda: head(torch.zeros(3 + rank, 4), torch.zeros(3 + rank, 5)))
    if what == "labels":
        head = LinearLoss(4, 10 + 2 * rank, loss, process_group=group)
        return _message(lambda: head(torch.zeros(3, 4), torch.zeros(3, 5 + rank)))
    if what == "later":
        other = torch.zeros(3, 5 + rank)
        return _message(lambda: sharded(other, other))
    if what == "learned":
        scaled = shard_labels(ZLPRLoss(logit_scale=nn.Parameter(torch.ones(()), requires_grad=rank == 0)), group)
        return _message(lambda: scaled(logits, targets))
    if what == "plan":
        compound = mlloss_cuda.CompoundLoss([(1.0, ZLPRLoss()), (0.5, DiceLoss(average="micro"))], reduction="mean")
        compound.reduction = "none" if rank else "mean"
        return _message(lambda: shard_labels(compound, group)(logits, targets))
    if what == "first":
        bad: Any = "no tensor" if rank else logits
        return _message(lambda: shard_labels(loss, group)(bad, targets))
    return _message(lambda: sharded(logits, targets))


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("rows", "rank 0 has 3 rows.*rank 1 has 4 rows", "rank 1 has 4 rows.*rank 0 has 3 rows"),
        ("labels", "rank 0 has 3 rows of 10 labels.*rank 1 has 3 rows of 12", "rank 1 has 3 rows of 12.*rank 0 has"),
        ("dtype", "rank 0 has .*float32.*rank 1 has .*float64", "rank 1 has .*float64.*rank 0 has .*float32"),
        ("loss", "rank 0 has .*zlpr.*rank 1 has .*dice", "rank 1 has .*dice.*rank 0 has .*zlpr"),
        ("threshold", "rank 0 has .*offset -0.25.*rank 1 has .*offset -0.5", "ranks disagree"),
        ("label_smoothing", "rank 0 has .*smoothing 0.25.*rank 1 has .*smoothing 0.5", "ranks disagree"),
        ("logit_scale", "rank 0 has .*scale 0.25.*rank 1 has .*scale 0.5", "ranks disagree"),
        ("linear", "rank 0 has 3 rows.*rank 1 has 4 rows", "rank 1 has 4 rows.*rank 0 has 3 rows"),
        ("failure", "rank 1 failed with ValueError: targets: expected", "ValueError: targets: expected"),
        ("first", "rank 1 failed its own check", "TypeError: logits: expected a tensor"),
        ("later", "rank 1 failed with ValueError: logits: expected the 5", "ValueError: logits: expected the 5 labels"),
        ("plan", "rank 1 failed with ValueError: reduction: expected", "ValueError: reduction: expected another"),
        ("learned", r"rank 0 has .*\['logit_scale'\]; rank 1 has .*\[\]", "ranks disagree"),
        ("gradient", "a gradient of the input; rank 1 has .*no gradient", "ranks disagree"),
        ("input", "rank 1 failed with ValueError: input: expected shape", "ValueError: input: expected shape"),
        ("topk", "rank 0 has topk of 2 .*rank 1 has topk of 3", "ranks disagree"),
        ("topk's failure", "rank 1 failed with ValueError: k: expected 1 to 10", "ValueError: k: expected 1 to 10"),
        ("local labels", "local_labels: rank 1 failed its own check", "TypeError: local_labels: expected an int"),
    ],
)
def test_disagreement_raises_on_both_ranks(ranks: Ranks, what: str, first: str, second: str) -> None:
    messages = ranks.run(2, _disagreements, what)
    assert re.search(first, messages[0]), messages
    assert re.search(second, messages[1]), messages


def _trainer_loss(rank: int) -> None:
    loss = shard_labels(ZLPRLoss(reduction="sum"), group_of(2))
    logits, targets = torch.zeros(3, 5), torch.ones(3, 5)
    found = mlloss_cuda.hf_compute_loss(loss)((logits,), targets, 60)
    torch.testing.assert_close(found, loss(logits, targets))
    with pytest.raises(ValueError, match="reduction other than 'none'"):
        mlloss_cuda.hf_compute_loss(shard_labels(ZLPRLoss(reduction="none"), group_of(2)))


def test_the_trainer_sees_the_reduction(ranks: Ranks) -> None:
    ranks.run(2, _trainer_loss)


def _seeds(rank: int) -> int:
    torch.manual_seed(5 + rank)
    head = LinearLoss(4, 10, ZLPRLoss(), fused_update=FusedSGD(), process_group=group_of(3))
    assert head.fused_update is not None
    return int(head.fused_update.param_groups[0]["seed"])


def test_ranks_round_with_one_seed(ranks: Ranks) -> None:
    """A checkpoint keeps one seed, so the ranks must have the same."""
    assert len(set(ranks.run(3, _seeds))) == 1


def _exits(rank: int) -> str:
    loss = shard_labels(ZLPRLoss(), group_of(2))
    loss(torch.zeros(1, 5), torch.zeros(1, 5))
    if rank == 1:
        os._exit(1)
    try:
        loss(torch.zeros(1, 5), torch.zeros(1, 5))
    except RuntimeError as error:
        return str(error)
    return "none"


def test_exit_of_a_rank_raises_on_the_others() -> None:
    pair = Ranks(2)
    try:
        alive, dead = pair.results(2, _exits)
    finally:
        pair.close()
    assert dead == (False, "died")
    assert alive[0], alive
    assert re.search("(?i)closed|timed out|reset", alive[1]), alive


def _arguments(rank: int) -> None:
    group = group_of(1)
    shards = LabelShards(group, (5, 5), 0)
    # The check makes the host wait for a GPU, so there it runs only in torch's debug mode.
    for level, checks in ((distributed.DebugLevel.OFF, False), (distributed.DebugLevel.INFO, True)):  # type: ignore[attr-defined]
        distributed.set_debug_level(level)  # type: ignore[attr-defined]
        assert shards._compares(torch.device("cuda")) is checks
        assert shards._compares(torch.device("cpu"))
    distributed.set_debug_level(distributed.DebugLevel.OFF)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="loss: expected a loss module"):
        shard_labels(nn.BCEWithLogitsLoss(), group)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="group: expected a torch.distributed process group"):
        shard_labels(ZLPRLoss(), "gloo")  # type: ignore[arg-type]
    sharded = shard_labels(ZLPRLoss(), group)
    sharded(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="logits: expected the 5 labels of the first call, got 6"):
        sharded(torch.zeros(2, 6), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="targets: expected 5 labels, as all ranks have together"):
        sharded(torch.zeros(2, 5), CSRTargets.from_lists([[0], [1]], 7))
    with pytest.raises(ValueError, match="weight: expected shape"):
        shard_labels(ZLPRLoss(weight=torch.ones(4)), group)(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="local_labels: expected 7 on all ranks together"):
        LinearLoss(3, 7, ZLPRLoss(), process_group=group, local_labels=6)
    with pytest.raises(ValueError, match="local_labels: expected None without a process_group"):
        LinearLoss(3, 7, ZLPRLoss(), local_labels=7)
    uneven = LinearLoss(3, 7, ZLPRLoss(), process_group=group, local_labels=7)
    uneven.shards = LabelShards(group, (3, 4), 0)
    with pytest.raises(ValueError, match="local_labels: expected the sizes of torch.chunk for a checkpoint"):
        uneven.checkpoint()
    with pytest.raises(TypeError, match="local_labels: expected an int"):
        LinearLoss(3, 7, ZLPRLoss(), process_group=group, local_labels=7.0)  # type: ignore[arg-type]
    short = LinearLoss(3, 7, ZLPRLoss(), bias=False, process_group=group)
    short.weight = nn.Parameter(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="linear_weight: expected this rank's 7 labels, got 4"):
        short.topk(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="fused_update: expected a process group"):
        LinearLoss(3, 7, ZLPRLoss(), process_group=_mesh(1), fused_update=FusedSGD())
    head = LinearLoss(3, 7, ZLPRLoss(), process_group=_mesh(1))
    with pytest.raises(ValueError, match="linear_bias: expected a DTensor"):
        linear_loss(torch.zeros(2, 3), head.weight, torch.zeros(2, 7), ZLPRLoss(), linear_bias=torch.zeros(7))


def test_arguments(ranks: Ranks) -> None:
    ranks.run(1, _arguments)


def test_without_a_group() -> None:
    with pytest.raises(ValueError, match="group: expected torch.distributed to be initialised"):
        shard_labels(ZLPRLoss())
    with pytest.raises(ValueError, match="process_group: expected torch.distributed to be initialised"):
        LinearLoss(3, 7, ZLPRLoss(), process_group="gloo")  # type: ignore[arg-type]


@pytest.mark.parametrize(("labels", "count"), [(10, 4), (5, 4), (1, 3), (8, 2), (0, 2)])
def test_chunk_sizes_equal_torch_chunk(labels: int, count: int) -> None:
    chunks = [len(part) for part in torch.zeros(labels).chunk(count)] if labels else []
    expected = tuple(chunks + [0] * (count - len(chunks)))
    assert chunk_sizes(labels, count) == expected
