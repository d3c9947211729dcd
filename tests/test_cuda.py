"""Tests that need a GPU: graphs, streams, devices, tensors past 2^31 elements. Deselected without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, dice_loss, sigmoid_focal_loss, zlpr_loss

from .alone import gpu_memory
from .cases import Case
from .conftest import Backend, last_strategy
from .inputs import Reference, evaluate, random_logits, random_positives

pytestmark = pytest.mark.gpu()

SHAPE = (6, 4501)


def random_problem(generator: torch.Generator, dtype: torch.dtype, sparse: bool) -> tuple[Tensor, Any]:
    """Return logits, and targets whose tensors have the same size for any number of entries."""
    logits = random_logits(generator, SHAPE, dtype, "cuda")
    dense = random_positives(generator, SHAPE, 0.01)
    return logits, CSRTargets.from_dense(dense).pad_to(dense.numel()).to("cuda") if sparse else dense.to("cuda")


def overwrite(targets: Any, fresh: Any) -> None:
    if isinstance(targets, Tensor):
        targets.copy_(fresh)
    else:
        targets.crow_indices.copy_(fresh.crow_indices)
        targets.col_indices.copy_(fresh.col_indices)


def capture(call: Callable[[], tuple[Tensor, ...]]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """Capture ``call`` as a CUDA graph, after runs that load its kernels. A capture fails if anything synchronises."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph, outputs


@pytest.mark.parametrize("sparse", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_graph_replays_on_fresh_inputs(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, sparse: bool, reduction: str
) -> None:
    x, y = random_problem(generator, dtype, sparse)
    x.requires_grad_()

    def step() -> tuple[Tensor, ...]:
        value = served(x, y, reduction=reduction)
        return value.detach(), *torch.autograd.grad(value, x, torch.full_like(value, 0.5))

    graph, (value, gradient) = capture(step)
    for _ in range(3):  # no state of one replay may affect the next
        fresh, targets = random_problem(generator, dtype, sparse)
        with torch.no_grad():
            x.copy_(fresh)
        overwrite(y, targets)
        graph.replay()
        half = torch.full_like(value, 0.5)
        expected = evaluate(served, fresh, targets, half, reduction=reduction)
        assert torch.equal(value, expected.value)
        assert torch.equal(gradient, expected.gradient)


def test_forward_without_gradient_in_a_graph(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x, y = random_problem(generator, torch.bfloat16, False)
    graph, (value,) = capture(lambda: (served(x, y),))
    fresh, targets = random_problem(generator, torch.bfloat16, False)
    x.copy_(fresh)
    y.copy_(targets)
    graph.replay()
    assert torch.equal(value, served(fresh, targets))


@pytest.mark.parametrize("sparse", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_kernels_run_on_the_current_stream(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, sparse: bool
) -> None:
    """The logits are written late on that stream: kernels on another stream would read zeros."""
    fresh, y = random_problem(generator, dtype, sparse)
    expected = evaluate(served, fresh, y)
    x = torch.zeros_like(fresh).requires_grad_()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        with torch.no_grad():
            x.copy_(fresh)
        value = served(x, y)
        (gradient,) = torch.autograd.grad(value, x)
    stream.synchronize()
    assert torch.equal(value, expected.value)
    assert torch.equal(gradient, expected.gradient)


@pytest.mark.gpu(devices=2)
def test_device_other_than_the_current_one(served: Case, backend: Backend, generator: torch.Generator) -> None:
    x, y = random_problem(generator, torch.float32, False)
    expected = evaluate(served, x, y)
    got = evaluate(served, x.to("cuda:1"), y.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert got.value.device == got.gradient.device == torch.device("cuda:1")
    if torch.cuda.get_device_capability(0) == torch.cuda.get_device_capability(1):
        assert torch.equal(got.value.cpu(), expected.value.cpu())
        assert torch.equal(got.gradient.cpu(), expected.gradient.cpu())
    torch.testing.assert_close(got.value.cpu(), expected.value.cpu())


def test_bitwise_equal_from_run_to_run(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """There are so many blocks that no two runs schedule them alike."""
    shape = (700, 20_011)
    x = random_logits(generator, shape, torch.bfloat16, "cuda")
    y = random_positives(generator, shape, 1e-3).to("cuda")
    first = evaluate(served, x, y)
    for _ in range(5):
        again = evaluate(served, x, y)
        assert torch.equal(again.value, first.value)
        assert torch.equal(again.gradient, first.gradient)


# For each strategy a loss, rows and labels that it takes, of more than 2^31 elements, and whether targets are sparse.
# A team has one block, a few, or many. All combinations would occupy a GPU's memory for hours, and count elements by
# the same code.
PAST_31_BITS = {
    "team": (
        (zlpr_loss, 800, 2_812_281, True),
        (zlpr_loss, 16_500, 131_073, False),
        (dice_loss, 270_000, 8_001, True),
    ),
    "split": ((dice_loss, 800, 2_812_281, False),),
}


def assert_right_past_31_bits(
    generator: torch.Generator, loss: Callable[..., Tensor], rows: int, labels: int, sparse: bool
) -> None:
    """Assert that the value is the sum of two halves' values, and that the last rows' gradient agrees with float64."""
    assert rows * labels > 2**31
    random = torch.Generator("cuda").manual_seed(generator.initial_seed())
    x = torch.randn(rows, labels, dtype=torch.bfloat16, device="cuda", generator=random)
    columns = torch.randint(labels, (rows, 1), device="cuda", generator=random)

    def targets(part: slice, dense: bool) -> Any:
        crow = torch.arange(len(columns[part]) + 1, device="cuda")
        csr = CSRTargets(crow, columns[part].flatten(), labels)
        return csr.to_dense() if dense else csr

    got = evaluate(loss, x, targets(slice(None), not sparse), reduction="sum")
    halves = (slice(0, rows // 2), slice(rows // 2, rows))
    with torch.no_grad():
        parts = [loss(x[half], targets(half, not sparse), reduction="sum") for half in halves]
    torch.testing.assert_close(got.value, parts[0] + parts[1], rtol=1e-5, atol=0)
    last = slice(rows - 2, rows)
    exact = Reference(loss, x[last], targets(last, True), reduction="sum").exact.gradient.to("cuda")
    eps = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(got.gradient[last].double(), exact, rtol=2 * eps, atol=eps * float(exact.abs().max()))


@pytest.mark.large
@pytest.mark.gpu(gib=40)
def test_rows_past_31_bits(backend: Backend, generator: torch.Generator) -> None:
    for problem in PAST_31_BITS[backend.strategy]:
        with gpu_memory():
            assert_right_past_31_bits(generator, *problem)
        assert last_strategy(backend) == backend.strategy


@pytest.mark.large
@pytest.mark.element_wise
@pytest.mark.gpu(gib=40)
def test_elements_past_31_bits(backend: Backend, generator: torch.Generator) -> None:
    with gpu_memory():
        assert_right_past_31_bits(generator, sigmoid_focal_loss, 800, 2_812_281, True)
