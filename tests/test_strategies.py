"""The CUDA engine's launch strategies: each runs when requested, agrees within rounding, and takes large offsets."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._C._profiler import _EventType

from mlloss_cuda import (
    CSRTargets,
    _extension,
    decoupled_softmax_loss,
    dice_loss,
    sigmoid_focal_loss,
    zlpr_loss,
)

from .cases import Case, compound
from .conftest import ROW_RESIDENT_STRATEGIES, Backend
from .inputs import Reference, as_layout, assert_within_budget, evaluate, random_logits, random_positives

pytestmark = pytest.mark.cuda_engine
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def library_of(backend: Backend) -> ctypes.CDLL:
    assert backend.library is not None
    return ctypes.CDLL(str(backend.library))


def expected_strategy(case: Case, backend: Backend) -> str:
    if case.element_wise:
        return "element-wise"
    return "split" if case.grouping != "samples" else backend.strategy


@pytest.mark.parametrize("layout", ("bool", "int64", "csr64"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_requested_strategy_is_used(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str
) -> None:
    logits = random_logits(generator, (6, 1_500), dtype, backend.device)
    dense = random_positives(generator, (6, 1_500), 0.02)
    reference = Reference(served, logits, dense.to(backend.device))
    assert_within_budget(evaluate(served, logits, as_layout(dense, layout, backend.device)), reference)
    taken = library_of(backend).mlloss_cuda_last_strategy()
    assert taken == _extension.strategies()[expected_strategy(served, backend)]


def test_rows_of_one_chunk_and_of_many(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Blocks of a cluster without a chunk, threads without one, and rows whose chunks do not divide evenly."""
    for labels in (1, 7, 8, 9, 63, 129, 1_025, 3_001):
        logits = random_logits(generator, (5, labels), torch.bfloat16, backend.device)
        targets = random_positives(generator, (5, labels)).to(backend.device)
        assert_within_budget(evaluate(served, logits, targets), Reference(served, logits, targets))


def test_extreme_rows_between_ordinary_ones(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Sums that overflow without a maximum, infinities, rows of weight 0: each takes its own path through a kernel."""
    logits = random_logits(generator, (24, 2_111), torch.float32, backend.device)
    logits[1::4] *= 40
    if not served.softmax_over_labels:
        logits[6, 100] = torch.inf
    logits[10, 2_000] = -torch.inf
    targets = random_positives(generator, (24, 2_111), 0.01).to(backend.device)
    targets[6, 100], targets[10, 2_000] = True, False
    weight = torch.ones(24, device=backend.device)
    weight[3] = 0
    got = evaluate(served, logits, targets, sample_weight=weight)
    assert_within_budget(got, Reference(served, logits, targets, sample_weight=weight))


@pytest.mark.parametrize("layout", ("bool", "csr64"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_late_sums(backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str) -> None:
    """A second pass over rows of one chunk or many, resident or not, with and without a gradient after it."""
    for rows, labels in ((5, 9), (9, 1_025), (24, 3_001)):
        logits = random_logits(generator, (rows, labels), dtype, backend.device)
        logits[1::4] *= 40
        dense = random_positives(generator, (rows, labels), 0.01)
        weight = torch.ones(rows, device=backend.device)
        weight[3] = 0
        targets, arguments = as_layout(dense, layout, backend.device), {"sample_weight": weight}
        reference = Reference(decoupled_softmax_loss, logits, dense.to(backend.device), **arguments)
        got = evaluate(decoupled_softmax_loss, logits, targets, **arguments)
        assert_within_budget(got, reference)
        assert torch.equal(decoupled_softmax_loss(logits, targets, **arguments), got.value)


def test_sums_of_losses_have_no_row_resident_kernels(backend: Backend, generator: torch.Generator) -> None:
    """A request for resident or cluster, for which sums have no kernels, leaves their default strategy."""
    logits = random_logits(generator, (6, 1_500), torch.bfloat16, backend.device)
    targets = random_positives(generator, (6, 1_500), 0.02).to(backend.device)
    whole = compound.CASES[0]
    assert_within_budget(evaluate(whole, logits, targets), Reference(whole, logits, targets))
    expected = "streaming" if backend.strategy in ROW_RESIDENT_STRATEGIES else backend.strategy
    assert library_of(backend).mlloss_cuda_last_strategy() == _extension.strategies()[expected]


@pytest.mark.parametrize(
    ("dtype", "layout"),
    ((torch.bfloat16, "float32"), (torch.float16, "int32"), (torch.float32, "int64")),
    ids=("bfloat16-float32", "float16-int32", "float32-int64"),
)
def test_shared_memory_up_to_the_default_limit(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str
) -> None:
    """Targets take 32 bytes beside a chunk's 16: up to 48 KiB per block, to which a kernel's static memory is added."""
    # 4 chunks of 256 threads in a ring; 1,023 chunks in one block, and in each of two.
    for chunks in (530, 1_022, 2_044):
        shape = (2, chunks * 16 // dtype.itemsize)
        logits = random_logits(generator, shape, dtype, backend.device)
        dense = random_positives(generator, shape, 0.02)
        got = evaluate(served, logits, as_layout(dense, layout, backend.device))
        assert_within_budget(got, Reference(served, logits, dense.to(backend.device)))


@pytest.fixture
def far_apart() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of logits and of targets, 2^31 + 8 elements apart; only pages in use take memory."""
    rows, labels, step = 2, 3_001, 2**31 + 8
    logits = torch.empty(step + labels, dtype=torch.bfloat16).as_strided((rows, labels), (step, 1))
    targets = torch.empty(step + labels, dtype=torch.bool).as_strided((rows, labels), (step, 1))
    return logits, targets


@pytest.mark.emulated
def test_offsets_beyond_31_bits(
    served: Case, backend: Backend, generator: torch.Generator, far_apart: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, targets = far_apart
    logits.copy_(random_logits(generator, tuple(logits.shape), torch.bfloat16, "cpu"))
    targets.copy_(random_positives(generator, tuple(targets.shape)))
    reference = Reference(served, logits.clone(), targets.clone())
    leaf = logits.detach().requires_grad_()
    value = served(leaf, targets)
    (gradient,) = torch.autograd.grad(value, leaf)
    got = type(reference.exact)(value.detach(), gradient)
    assert_within_budget(got, reference)


@pytest.mark.emulated
def test_entries_beyond_31_bits(served: Case, backend: Backend, generator: torch.Generator, tmp_path: Path) -> None:
    """The rows of a CSR lie past entry 2^31, in a sparse file."""
    logits = random_logits(generator, (3, 2_111), torch.float32, "cpu")
    dense = random_positives(generator, (3, 2_111), 0.01)
    compact = CSRTargets.from_dense(dense)
    first = 2**31 + 5
    size = first + compact.col_indices.numel()
    columns = torch.from_file(str(tmp_path / "columns"), shared=True, size=size, dtype=torch.int64)
    columns[first:] = compact.col_indices
    far = CSRTargets(compact.crow_indices.long() + first, columns, 2_111, validate=False)
    assert_within_budget(evaluate(served, logits, far), Reference(served, logits, dense))


@pytest.mark.emulated
def test_capture_uses_its_own_counter(
    served: Case, backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured graph may be replayed beside other work on any stream, so it must not share the stream's counter."""
    logits = random_logits(generator, (9, 1_500), torch.float32, "cpu")
    targets = random_positives(generator, (9, 1_500))
    expected = evaluate(served, logits, targets)
    monkeypatch.setenv("CUEMU_CAPTURING", "1")
    captured = evaluate(served, logits, targets)
    assert torch.equal(captured.value, expected.value)
    assert torch.equal(captured.gradient, expected.gradient)


@pytest.mark.emulated
def test_refused_launch_does_not_affect_the_next(
    backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = random_logits(generator, (5, 600), torch.float32, "cpu")
    targets = random_positives(generator, (5, 600))
    expected = evaluate(zlpr_loss, logits, targets)
    with monkeypatch.context() as refusing:
        refusing.setenv("CUEMU_REFUSE", "1")
        with pytest.raises(RuntimeError, match="CUDA error"):
            zlpr_loss(logits, targets)
    assert library_of(backend).cuemu_last_error() == 0
    got = evaluate(zlpr_loss, logits, targets)
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)


@pytest.mark.emulated
def test_pending_error_of_another_call_is_left_alone(backend: Backend, generator: torch.Generator) -> None:
    """The error stays pending, so that the code that caused it can find it."""
    logits = random_logits(generator, (5, 600), torch.float32, "cpu")
    targets = random_positives(generator, (5, 600))
    expected = evaluate(zlpr_loss, logits, targets)
    library = library_of(backend)
    library.cuemu_leave_error()
    try:
        got = evaluate(zlpr_loss, logits, targets)
        left = library.cuemu_last_error()
    finally:
        library.cuemu_forget_error()
    assert left != 0
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)


@pytest.mark.emulated
def test_launch_counts(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Small shapes, whose cost is the launch, take one launch each way; split needs more in the forward."""
    logits = random_logits(generator, (16, 600), torch.float32, "cpu").requires_grad_()
    targets = random_positives(generator, (16, 600))
    count = library_of(backend).cuemu_launches
    before = count()
    value = served(logits, targets)
    forward = count()
    value.backward()
    # Split has launches for statistics and gradient; groups that are labels need one more to join the statistics.
    split = 3 if served.own.get("average") == "macro" else 2
    split += served.spec == "decoupled_softmax"  # late sums take one more
    expected = split if expected_strategy(served, backend) == "split" else 1
    assert (forward - before, count() - forward) == (expected, 1)


@pytest.mark.emulated
def test_shared_memory_limit_is_set_once(backend: Backend, generator: torch.Generator) -> None:
    """The limit is set to the largest size: with one per launch, a host thread could lower another's before its launch.

    The emulator ends the process if a kernel's limit is lowered.
    """
    for chunks in (3_400, 3_200, 1, 3_300):
        logits = random_logits(generator, (2, chunks * 8), torch.bfloat16, backend.device)
        targets = random_positives(generator, (2, chunks * 8), 0.01)
        assert_within_budget(evaluate(zlpr_loss, logits, targets), Reference(zlpr_loss, logits, targets))


@pytest.mark.emulated
def test_occupancy_is_queried_once(backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (5, 4_999), torch.float32, backend.device)
    targets = random_positives(generator, (5, 4_999), 0.01)
    evaluate(zlpr_loss, logits, targets)
    queries = library_of(backend).cuemu_occupancy_queries
    before = queries()
    for _ in range(3):
        evaluate(zlpr_loss, logits, targets)
    assert queries() == before


@pytest.mark.emulated
@pytest.mark.parametrize("rows", (1, 5))
def test_no_space_for_a_cluster(
    backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """If no cluster fits, as when another process occupies multiprocessors, rows are streamed or split."""
    labels = 6_000 + 8 * rows  # a size of no other test, as the occupancy of known sizes is cached
    logits = random_logits(generator, (rows, labels), torch.float32, backend.device)
    targets = random_positives(generator, (rows, labels), 0.01)
    monkeypatch.setenv("CUEMU_CLUSTERS", "0")
    got = evaluate(zlpr_loss, logits, targets)
    assert_within_budget(got, Reference(zlpr_loss, logits, targets))
    if backend.strategy == "cluster":
        assert library_of(backend).mlloss_cuda_last_strategy() == _extension.strategies()["streaming"]


@pytest.mark.emulated
@pytest.mark.parametrize(("name", "exact", "most"), (("exp2", np.exp2, 2), ("reciprocal", np.reciprocal, 1)))
def test_the_special_function_unit_errs_as_documented(
    backend: Backend, name: str, exact: Callable[[Any], Any], most: int
) -> None:
    """Results err by up to the number of units in the last place that the PTX manual allows, the same in each call."""
    function = getattr(library_of(backend), f"cuemu_{name}")
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    arguments = np.linspace(-80.0, 80.0, 4_001, dtype=np.float32)[1::2]
    rounded = exact(arguments.astype(np.float64)).astype(np.float32)
    found = np.array([function(x) for x in arguments], dtype=np.float32)
    apart = found.view(np.int32) - rounded.view(np.int32)
    assert set(apart) == set(range(-most, most + 1))
    assert [function(x) for x in arguments] == list(found)
    special = {
        "exp2": {0.0: 1.0, -np.inf: 0.0, np.inf: np.inf, -127.0: 0.0},
        "reciprocal": {np.inf: 0.0, 1e-39: np.inf},
    }
    for x, value in special[name].items():
        assert function(x) == value
    assert np.isnan(function(np.nan))


def recorded(call: Callable[[], object]) -> tuple[list[int], list[str]]:
    """Return the sizes of a call's allocations on the CPU, and the names of its operations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    sizes, names = [], []
    events = list(profile.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.typed[0] == _EventType.Allocation:
            sizes.append(event.typed[1].alloc_size)
        else:
            names.append(event.name)
    return [size for size in sizes if size > 0], names


@pytest.mark.emulated
@pytest.mark.parametrize("loss", (zlpr_loss, dice_loss, sigmoid_focal_loss))
def test_a_pass_allocates_once_beside_its_results(
    backend: Backend, generator: torch.Generator, loss: Callable[..., torch.Tensor]
) -> None:
    """The gradient, the loss, and one workspace; no allocation goes through the dispatcher."""
    x = random_logits(generator, (6, 4_500), torch.float32, backend.device).requires_grad_()
    y = random_positives(generator, (6, 4_500), 0.01)
    loss(x, y)
    sizes, names = recorded(lambda: loss(x, y))
    assert max(sizes) == x.nbytes
    assert len(sizes) == 3, sizes
    assert not [name for name in names if "empty" in name]
    with torch.no_grad():
        sizes, _ = recorded(lambda: loss(x, y))
    assert len(sizes) == 2, sizes
