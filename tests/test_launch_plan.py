"""The launch planner: it is plain host code, so every device's plans are tested without the device."""

from __future__ import annotations

import itertools

import pytest

from mlloss_cuda import _extension

ROWS = (1, 2, 64, 512, 4096)
LABELS = (1, 31, 5_000, 8_192, 131_072, 131_073, 670_091, 3_000_000)
WIDTH = {"float64": 2, "float32": 4, "bfloat16": 8, "float16": 8}
SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# The most static shared memory of a kernel; the most shared memory of a block, which includes it; the number of
# multiprocessors; the second-level cache in bytes.
STATIC_SHARED = 2_048
SHARED = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}
PROCESSORS = {80: 108, 90: 132, 100: 148, 120: 170}
L2 = {80: 40 << 20, 90: 50 << 20, 100: 126 << 20, 120: 96 << 20}
TARGETS = ("bool", "int64", "float32", "csr")
STRATEGIES = _extension.strategies()


@pytest.fixture
def plan():
    if _extension.launch_plan is None:
        pytest.fail("the compiled extension is not installed")
    return _extension.launch_plan


@pytest.mark.parametrize("dtype", WIDTH)
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("grouping", ("element", "samples", "macro", "micro"))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_plans_can_be_launched(plan, dtype: str, capability: int, grouping: str, strategy: str) -> None:
    for rows, labels, targets in itertools.product(ROWS, LABELS, TARGETS):
        arguments = (rows, labels, dtype, grouping, targets, True, capability, STRATEGIES[strategy])
        got = plan(*arguments)
        assert 1 <= got["blocks"] < 2**31
        assert 32 <= got["threads"] <= 1024
        assert got["threads"] % 32 == 0
        assert 0 <= got["shared_bytes"] <= SHARED[capability] - STATIC_SHARED
        assert got["vector_width"] == WIDTH[dtype]
        assert got["cluster"] in (1, 2, 4, 8, 16)
        assert got["blocks"] % got["cluster"] == 0
        assert 1 <= got["rows_per_wave"] <= rows
        assert got["tiles"] >= 1
        assert got["reads"] in (1, 2)
        assert got["strategy"] in got["forward"]
        assert got == plan(*arguments)


@pytest.mark.parametrize("capability", SHARED)
def test_requested_strategy_is_used_where_it_can_run(plan, capability: int) -> None:
    def strategy(labels: int, wanted: str, grouping: str = "samples", rows: int = 512) -> tuple[str, int]:
        got = plan(rows, labels, "bfloat16", grouping, "csr", True, capability, STRATEGIES[wanted])
        return got["strategy"], got["reads"]

    for wanted in STRATEGIES:
        assert strategy(131_072, wanted, "element") == ("element-wise", 1)
        assert strategy(131_072, wanted, "macro") == ("split", 2)
        assert strategy(131_072, wanted, "micro") == ("split", 2)
    assert strategy(8_192, "streaming") == ("streaming", 2)
    assert strategy(8_192, "split") == ("split", 2)
    # The longest row that one block holds is its shared memory, minus the part that reductions need.
    assert strategy(8_192, "resident") == ("resident", 1)
    longest = (SHARED[capability] - STATIC_SHARED) // 2 - 16
    assert strategy(longest, "resident") == ("resident", 1)
    assert strategy(longest + 64, "resident") == ("streaming", 2)
    # Clusters need sm_90; older devices hold a row in one block if it fits.
    assert strategy(8_192, "cluster") == ("cluster" if capability >= 90 else "resident", 1)
    assert strategy(131_073, "cluster") == (("cluster", 1) if capability >= 90 else ("streaming", 2))


@pytest.mark.parametrize("wanted", ("resident", "cluster"))
@pytest.mark.parametrize("shape", ((512, 8_192), (1, 2_812_281)))
def test_losses_without_row_resident_kernels(plan, wanted: str, shape: tuple[int, int]) -> None:
    """A request for a row-resident strategy leaves their default plan unchanged."""
    arguments = (*shape, "bfloat16", "samples", "csr", True, 90)
    assert plan(*arguments, STRATEGIES[wanted], held=False) == plan(*arguments, held=False)
    assert plan(*arguments, held=False) == plan(*arguments)


@pytest.mark.parametrize("capability", SHARED)
def test_default_is_streaming_or_split(plan, capability: int) -> None:
    """Another default needs a result from a GPU that shows it to be correct and faster."""

    def strategy(rows: int, labels: int) -> str:
        return plan(rows, labels, "bfloat16", capability=capability)["strategy"]

    assert strategy(512, 5_000) == strategy(512, 131_073) == strategy(512, 2_812_281) == "streaming"
    # These rows would leave half of the multiprocessors idle, and are long enough to be shared.
    assert strategy(PROCESSORS[capability] // 2, 131_073) == strategy(1, 2_812_281) == "split"
    assert strategy(PROCESSORS[capability] // 2 + 1, 131_073) == "streaming"
    assert strategy(1, 5_000) == "streaming"


def test_clusters_grow_with_the_row(plan) -> None:
    def cluster(labels: int, capability: int = 90, dtype: str = "bfloat16") -> int:
        got = plan(512, labels, dtype, "samples", "csr", True, capability, STRATEGIES["cluster"])
        return got["cluster"] if got["strategy"] == "cluster" else 0

    # Two blocks per multiprocessor if they fit, else one; 16 blocks if 8 do not hold the row.
    assert [cluster(n) for n in (8_192, 131_073, 262_145, 670_091, 1_300_000, 2_812_281)] == [2, 4, 8, 8, 16, 0]
    assert [cluster(n, dtype="float32") for n in (131_073, 400_000, 670_091)] == [8, 8, 16]
    # A cluster of 16 is not portable.
    assert [cluster(n, 120) for n in (131_073, 390_000, 670_091)] == [8, 8, 0]


@pytest.mark.parametrize("capability", L2)
def test_waves_stay_in_l2(plan, capability: int) -> None:
    for labels, dtype in itertools.product((131_073, 2_812_281), SIZE):
        got = plan(512, labels, dtype, capability=capability, strategy=STRATEGIES["split"])
        in_cache = got["rows_per_wave"] * labels * SIZE[dtype]
        assert got["rows_per_wave"] == 1 or in_cache <= 0.4 * L2[capability] < in_cache + labels * SIZE[dtype]
        # Without a gradient nothing is read again, so there is one wave; the tiles, and so the value, are the same.
        once = plan(512, labels, dtype, gradient=False, capability=capability, strategy=STRATEGIES["split"])
        assert (once["rows_per_wave"], once["tiles"]) == (512, got["tiles"])


def test_forward_without_gradient_reads_once(plan) -> None:
    for strategy in STRATEGIES.values():
        assert plan(512, 131_072, "float32", gradient=False, strategy=strategy)["reads"] == 1


def test_unknown_device_gets_the_preceding_family(plan) -> None:
    assert plan(64, 9_000, "float32", capability=103) == plan(64, 9_000, "float32", capability=100)
    assert plan(64, 9_000, "float32", capability=75) == plan(64, 9_000, "float32", capability=80)


def test_unknown_names_are_refused(plan) -> None:
    with pytest.raises(ValueError, match="dtype"):
        plan(64, 9_000, "float8")
    with pytest.raises(ValueError, match="grouping"):
        plan(64, 9_000, "float32", "columns")
