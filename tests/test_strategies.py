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

from .cases import Case, all_cases, compound
from .conftest import Backend, last_strategy, library_of
from .inputs import Outcome, Reference, as_layout, assert_within_budget, evaluate, random_logits, random_positives
from .new_process import run_python

pytestmark = pytest.mark.cuda_engine
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Labels of float32 rows for which a team has several blocks on the emulator's device, and more than that holds.
LONG, LONG_WITH_OPTIONS, TOO_LONG = 9_001, 7_001, 20_001
# The losses whose groups are rows, which teams serve.
ROWS = [case for case in all_cases() if case.grouping == "samples" and not case.element_wise]


def long_for(layout: str, case: Case | None = None) -> int:
    """Return the labels of a row that a team holds; a thread holds half as many if the call has options."""
    options = case is not None and "threshold" in case.own
    return LONG if layout in ("bool", "csr64") and not options else LONG_WITH_OPTIONS


def expected_strategy(case: Case, backend: Backend, dtype: torch.dtype = torch.float32) -> str:
    if case.element_wise:
        return "element-wise"
    return "split" if case.grouping != "samples" or dtype == torch.float64 else backend.strategy


def assert_same_bits(got: Outcome, expected: Outcome) -> None:
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)


@pytest.mark.parametrize("layout", ("bool", "int64", "csr64"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_requested_strategy_is_used(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str
) -> None:
    logits = random_logits(generator, (6, 1_500), dtype, backend.device)
    dense = random_positives(generator, (6, 1_500), 0.02)
    reference = Reference(served, logits, dense.to(backend.device))
    assert_within_budget(evaluate(served, logits, as_layout(dense, layout, backend.device)), reference)
    assert last_strategy(backend) == expected_strategy(served, backend, dtype)


def test_rows_of_one_chunk_and_of_many(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Threads and warps without a chunk, rows that are only edges, and rows whose chunks do not divide evenly."""
    for labels in (1, 7, 8, 9, 63, 129, 1_025, 3_001):
        logits = random_logits(generator, (5, labels), torch.bfloat16, backend.device)
        targets = random_positives(generator, (5, labels)).to(backend.device)
        assert_within_budget(evaluate(served, logits, targets), Reference(served, logits, targets))


@pytest.mark.parametrize("shape", ((24, 2_111), (11, LONG)))
def test_extreme_rows_between_ordinary_ones(
    served: Case, backend: Backend, generator: torch.Generator, shape: tuple[int, int]
) -> None:
    """Sums that overflow or vanish without a maximum, infinities, rows of weight 0: each has a path of its own."""
    logits = random_logits(generator, shape, torch.float32, backend.device)
    logits[1::4] *= 40
    logits[8] -= 200
    if not served.softmax_over_labels:
        logits[6, 100] = torch.inf
    logits[10, 2_000] = -torch.inf
    targets = random_positives(generator, shape, 0.01).to(backend.device)
    targets[6, 100], targets[10, 2_000] = True, False
    weight = torch.ones(shape[0], device=backend.device)
    weight[3] = 0
    got = evaluate(served, logits, targets, sample_weight=weight)
    assert_within_budget(got, Reference(served, logits, targets, sample_weight=weight))


@pytest.mark.parametrize("layout", ("bool", "csr64"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_pass_sums(backend: Backend, generator: torch.Generator, dtype: torch.dtype, layout: str) -> None:
    """A second pass over rows of one chunk or many, by one block or several, with and without a gradient after it."""
    for rows, labels in ((5, 9), (9, 1_025), (24, 3_001), (6, LONG)):
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


@pytest.mark.parametrize("layout", ("bool", "csr64", "float32"))
def test_sums_of_losses_have_team_kernels(backend: Backend, generator: torch.Generator, layout: str) -> None:
    whole = compound.CASES[0]
    for rows, labels in ((6, 1_500), (3, long_for(layout))):
        logits = random_logits(generator, (rows, labels), torch.float32, backend.device)
        dense = random_positives(generator, (rows, labels), 0.02)
        got = evaluate(whole, logits, as_layout(dense, layout, backend.device))
        assert_within_budget(got, Reference(whole, logits, dense.to(backend.device)))
        assert last_strategy(backend) == expected_strategy(whole, backend)


@pytest.mark.parametrize("layout", ("bool", "csr64", "int64"))
def test_rows_that_fill_all_registers(served: Case, backend: Backend, generator: torch.Generator, layout: str) -> None:
    """A row of as many chunks as the threads of one block or two keep, and of a few labels less or more.

    A thread keeps 8 chunks without options and 4 with them. Rows that no team holds are split.
    """
    for chunks in (256 * 4, 256 * 8):
        for labels in (chunks * 4 - 7, chunks * 4 - 3, chunks * 4, chunks * 4 + 5):
            logits = random_logits(generator, (2, labels), torch.float32, backend.device)
            dense = random_positives(generator, (2, labels), 0.02)
            got = evaluate(served, logits, as_layout(dense, layout, backend.device))
            assert_within_budget(got, Reference(served, logits, dense.to(backend.device)))


@pytest.mark.parametrize("rows", (1, 2, 3, 48))
def test_plans_share_long_rows_among_blocks(backend: Backend, rows: int) -> None:
    plan = _extension.launch_plan(rows, 2_812_281, "bfloat16", strategy=_extension.strategies()[backend.strategy])
    assert plan["strategy"] == backend.strategy
    assert (plan["team"] > 1) == (backend.strategy == "team")


@pytest.mark.emulated
@pytest.mark.parametrize("layout", ("bool", "csr64", "float32"))
def test_teams_of_several_blocks(served: Case, backend: Backend, generator: torch.Generator, layout: str) -> None:
    """Long rows by teams of several blocks, whose launch is cooperative; rows that no team holds are split."""
    count = library_of(backend).cuemu_cooperative_launches
    for labels in (long_for(layout, served), TOO_LONG):
        logits = random_logits(generator, (5, labels), torch.float32, backend.device)
        logits[2] *= 40
        dense = random_positives(generator, (5, labels), 0.01)
        before = count()
        got = evaluate(served, logits, as_layout(dense, layout, backend.device))
        cooperative = count() - before
        assert_within_budget(got, Reference(served, logits, dense.to(backend.device)))
        team = labels < TOO_LONG and expected_strategy(served, backend) == "team"
        assert cooperative == team
        if not served.element_wise:
            assert last_strategy(backend) == ("team" if team else "split")


@pytest.mark.emulated
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.label)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("bool", "csr64", "float32"))
def test_a_team_reads_the_logits_once(
    served: Case, backend: Backend, generator: torch.Generator, layout: str, dtype: torch.dtype
) -> None:
    """One read serves value and gradient; split reads at least twice."""
    count = library_of(backend).cuemu_chunk_bytes
    count.restype = ctypes.c_longlong
    for rows, labels in ((5, 1_504), (3, long_for(layout) // 8 * 8)):
        logits = random_logits(generator, (rows, labels), dtype, backend.device)
        targets = as_layout(random_positives(generator, (rows, labels), 0.01), layout, backend.device)
        leaf = logits.requires_grad_()
        before = count()
        value = served(leaf, targets)
        bytes_read = count() - before
        assert value.requires_grad
        assert bytes_read == logits.nbytes if last_strategy(backend) == "team" else bytes_read >= 2 * logits.nbytes


@pytest.mark.emulated
@pytest.mark.parametrize("layout", ("bool", "csr64", "float32"))
def test_bits_do_not_depend_on_the_order_of_threads(
    served: Case, backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    for rows, labels in ((17, 601), (6, long_for(layout))):
        logits = random_logits(generator, (rows, labels), torch.float32, backend.device)
        logits[2] *= 40
        targets = as_layout(random_positives(generator, (rows, labels), 0.01), layout, backend.device)
        results = []
        for order in ("fifo", "lifo", "random"):
            monkeypatch.setenv("CUEMU_ORDER", order)
            results.append(evaluate(served, logits, targets))
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])


@pytest.mark.emulated
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.label)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_dense_and_sparse_targets_give_the_same_bits(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype
) -> None:
    """Both layouts have fast paths, with the same plans on this device."""
    for rows, labels in ((17, 601), (3, 3_001), (2, 4_096), (6, LONG)):
        logits = random_logits(generator, (rows, labels), dtype, backend.device)
        dense = random_positives(generator, (rows, labels), 0.01)
        got = evaluate(served, logits, as_layout(dense, "bool", backend.device))
        assert_same_bits(evaluate(served, logits, as_layout(dense, "csr64", backend.device)), got)


def places(shape: tuple[int, int], dtype: torch.dtype, device: str, first: int, beyond: int) -> torch.Tensor:
    """Return memory for rows, of which the first begins at element ``first``; ``beyond`` more lie between two rows."""
    rows, labels = shape
    step = labels + beyond
    return torch.empty(first + rows * step, dtype=dtype, device=device).as_strided(shape, (step, 1), first)


@pytest.mark.parametrize("shape", ((5, 61), (5, 1_501), (2, LONG_WITH_OPTIONS)))
def test_rows_at_any_place_in_memory(
    served: Case, backend: Backend, generator: torch.Generator, shape: tuple[int, int]
) -> None:
    """Logits, targets and gradient whose chunks begin at different labels do not take the fast path of a team.

    Rows of logits begin at odd elements, or are padded to other lengths than those of targets and gradient.
    """
    dtype = torch.float32
    values = random_logits(generator, shape, dtype, backend.device)
    dense = random_positives(generator, shape, 0.02)
    reference = Reference(served, values, dense.to(backend.device))
    for of_logits, of_targets in (
        ((3, 0), (0, 0)),
        ((0, 0), (1, 0)),
        ((3, 0), (3, 0)),
        ((0, 3), (0, 3)),
        ((0, 3), (0, 0)),
        ((2, 7), (5, 9)),
    ):
        logits = places(shape, dtype, backend.device, *of_logits).copy_(values)
        targets = places(shape, torch.bool, backend.device, *of_targets).copy_(dense)
        for layout in (targets, as_layout(dense, "csr64", backend.device)):
            leaf = logits.detach().requires_grad_()
            value = served(leaf, layout)
            (gradient,) = torch.autograd.grad(value, leaf)
            assert_within_budget(Outcome(value.detach(), gradient), reference)
            with torch.no_grad():
                alone = served(logits, layout)
            assert_within_budget(Outcome(alone, gradient), reference)


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
@pytest.mark.parametrize("labels", (1_500, LONG))
def test_capture_uses_its_own_zeros(
    served: Case, backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, labels: int
) -> None:
    """A captured graph may be replayed beside other work on any stream, so it uses no stream's counters or packets."""
    logits = random_logits(generator, (5, labels), torch.float32, "cpu")
    targets = random_positives(generator, (5, labels))
    expected = evaluate(served, logits, targets)
    monkeypatch.setenv("CUEMU_CAPTURING", "1")
    for _ in range(2):
        assert_same_bits(evaluate(served, logits, targets), expected)


@pytest.mark.emulated
def test_more_streams_than_have_memory_of_their_own(
    backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first 16 streams have packets and 256 have counters; further streams take them from the workspace."""
    problems = []
    for rows, labels in ((2, LONG), (2, 40)):
        logits = random_logits(generator, (rows, labels), torch.float32, "cpu")
        targets = random_positives(generator, (rows, labels))
        problems.append((logits, targets, evaluate(zlpr_loss, logits, targets)))
    for stream in range(1, 260):
        monkeypatch.setenv("CUEMU_STREAM", str(stream))
        for logits, targets, expected in problems if stream < 19 or stream > 256 else problems[1:]:
            assert_same_bits(evaluate(zlpr_loss, logits, targets), expected)


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
    value.backward(torch.tensor(2.0))  # a backward by 1 launches nothing on the CPU
    # Split has launches for statistics and gradient; groups that are labels need one more to join the statistics.
    split = 3 if served.own.get("average") == "macro" else 2
    split += served.spec == "decoupled_softmax"  # second-pass sums take one more
    expected = split if expected_strategy(served, backend) == "split" else 1
    assert (forward - before, count() - forward) == (expected, 1)


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


# Runs a loss in a process that has not asked yet how many blocks a multiprocessor holds.
NO_ROOM = """
import ctypes, sys, torch
from mlloss_cuda import BackendStatus, _backends, _extension, use_backend, zlpr_loss
_backends.add_engine("emulated", _backends.Engine(lambda: BackendStatus(True, ""), ("cpu",), "mlloss_cuda_emulated"))
torch.ops.load_library(sys.argv[1])
library = ctypes.CDLL(sys.argv[1])
for rows, labels in ((5, 600), (2, 9_001)):
    x = (3 * torch.randn(rows, labels)).requires_grad_()
    y = torch.rand(rows, labels) < 0.1
    results = []
    for strategy in ("team", "split"):
        library.mlloss_cuda_strategy(_extension.strategies()[strategy])
        with use_backend("emulated"):
            value = zlpr_loss(x, y)
            results.append((value.detach(), *torch.autograd.grad(value, x)))
        assert library.mlloss_cuda_last_strategy() == _extension.strategies()["split"]
    assert all(torch.equal(one, other) for one, other in zip(*results))
"""


@pytest.mark.emulated
def test_no_room_for_a_block(backend: Backend) -> None:
    """If no team fits, as when another process occupies the multiprocessors, rows are split."""
    done = run_python("-c", NO_ROOM, str(backend.library), CUEMU_BLOCKS="0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_one_row_of_wider_tensors(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype
) -> None:
    """The row strides of a single row differ between the tensors, and have no meaning."""
    logits = random_logits(generator, (1, 900), dtype, backend.device)[:, 8:811]
    targets = random_positives(generator, (1, 1000), 0.05).to(backend.device)[:, 16:819]
    assert_within_budget(evaluate(served, logits, targets), Reference(served, logits, targets))


@pytest.mark.emulated
def test_a_refused_team_is_split(
    served: Case, backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may refuse a cooperative launch that it said would fit; the error is not left for a later caller."""
    logits = random_logits(generator, (5, LONG), torch.float32, backend.device)
    targets = random_positives(generator, (5, LONG), 0.01).to(backend.device)
    teams, refusals = library_of(backend).cuemu_cooperative_launches, library_of(backend).cuemu_refusals
    before = teams()
    evaluate(served, logits, targets)
    wanted = teams() - before
    assert wanted <= 1
    monkeypatch.setenv("CUEMU_COOPERATIVE", "0")
    monkeypatch.setenv("CUEMU_STREAM", "1")
    before = refusals()
    for _ in range(2):  # the second call does not try again
        assert_within_budget(evaluate(served, logits, targets), Reference(served, logits, targets))
        assert last_strategy(backend) == ("element-wise" if served.element_wise else "split")
        assert library_of(backend).cuemu_last_error() == 0
    assert refusals() - before == wanted
    monkeypatch.undo()
    before = teams()
    evaluate(served, logits, targets)  # on another stream the team is tried again
    assert teams() - before == wanted


@pytest.mark.emulated
def test_reserved_multiprocessors_stay_free(
    backend: Backend, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team fits on a device of which another kernel holds one of two multiprocessors, if that one was reserved."""
    logits = random_logits(generator, (5, LONG), torch.float32, backend.device)
    targets = random_positives(generator, (5, LONG), 0.01).to(backend.device)
    library = library_of(backend)
    expected = evaluate(zlpr_loss, logits, targets)
    monkeypatch.setenv("CUEMU_SMS", "1")
    for reserved, refused in ((1, 0), (0, int(last_strategy(backend) == "team"))):
        library.mlloss_cuda_reserve(reserved)
        try:
            before = library.cuemu_refusals()
            got = evaluate(zlpr_loss, logits, targets)
        finally:
            library.mlloss_cuda_reserve(0)
        assert library.cuemu_refusals() - before == refused
        torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-5, atol=1e-9)
    monkeypatch.undo()
    evaluate(zlpr_loss, logits[:, :9], targets[:, :9])  # replaces the plan that this thread keeps


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
