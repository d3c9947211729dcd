"""The launch planner: it is plain host code, so every device's plans are tested without the device.

The speeds in plans are predictions; no test here knows a measured time.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from bench import predict
from mlloss_cuda import _extension

ROWS = (1, 2, 64, 512, 4096)
LABELS = (1, 31, 5_000, 8_192, 131_072, 131_073, 670_091, 3_000_000)
WIDTH = {"float64": 2, "float32": 4, "bfloat16": 8, "float16": 8}  # of a chunk, in elements
SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
HELD = {"float32": 2_000_000, "bfloat16": 4_000_000, "float16": 4_000_000}  # labels that a team holds on every device
CHUNKS_PER_THREAD = 8
TEAM_THREADS = 768  # of a multiprocessor, as registers allow
STATIC_SHARED = 2_048  # the most static shared memory of a kernel
RESERVED_SHARED = 1_024  # the driver's, for each block
DEVICES = _extension.known_devices()
STRATEGIES = _extension.strategies()
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"

Plan = dict[str, Any]


@pytest.fixture
def plan():
    if _extension.launch_plan is None:
        pytest.fail("the compiled extension is not installed")
    return _extension.launch_plan


def assert_tiles_cover_rows(got: Plan, labels: int, dtype: str) -> None:
    """Assert that tiles cover all chunks of a row, and that none is empty."""
    width = WIDTH[dtype]
    chunks = labels // width if got["strategy"] == "team" else (labels + 2 * width - 2) // width
    chunks = max(1, chunks)
    assert (got["tiles"] - 1) * got["chunks_per_tile"] < chunks <= got["tiles"] * got["chunks_per_tile"]


def assert_team_is_resident(got: Plan, rows: int, device: str) -> None:
    """Assert that a thread has registers for its chunks, and that all blocks are resident together."""
    facts = DEVICES[device]
    warps = got["threads"] // 32
    assert 1 <= got["chunks_per_warp"] <= CHUNKS_PER_THREAD * 32
    assert got["chunks_per_tile"] == warps * got["chunks_per_warp"]
    assert got["shared_bytes"] == 3 * (-(-got["chunks_per_tile"] // 16) * 16 + 16)
    assert got["tiles"] == got["team"]
    assert got["blocks"] % got["team"] == 0
    assert got["blocks"] <= rows * got["team"]
    by_shared = (facts["shared_per_block"] + RESERVED_SHARED) // (got["shared_bytes"] + STATIC_SHARED + RESERVED_SHARED)
    on_one = min(TEAM_THREADS // got["threads"], 32, by_shared)
    assert got["blocks"] <= facts["sm_count"] * on_one
    assert got["reads"] == 1


@pytest.mark.parametrize("dtype", WIDTH)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grouping", ("element", "samples", "macro", "micro"))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_plans_can_be_launched(plan, dtype: str, device: str, grouping: str, strategy: str) -> None:
    for rows, labels, gradient in itertools.product(ROWS, LABELS, (True, False)):
        arguments = (rows, labels, dtype, grouping, "bool", gradient, 90, STRATEGIES[strategy], TEAM_THREADS, device)
        got = plan(*arguments)
        assert 1 <= got["blocks"] < 2**31
        assert got["threads"] in range(32, 257, 32)
        assert got["shared_bytes"] == 0 or got["strategy"] == "team"
        assert got["vector_width"] == WIDTH[dtype]
        assert 1 <= got["rows_per_wave"] <= rows
        assert got["reads"] in (1, 2)
        assert 0.0 < got["fraction"] <= 1.0
        assert got["bytes_in_flight"] > 0
        assert got["strategy"] in got["forward"]
        assert got["bound"] in got["forward"]
        assert_tiles_cover_rows(got, labels, dtype)
        if got["strategy"] == "team":
            assert_team_is_resident(got, rows, device)
        else:
            assert (got["team"], got["chunks_per_warp"]) == (1, 0)
        assert got == plan(*arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_requested_strategy_is_used_where_it_can_run(plan, device: str) -> None:
    def strategy(labels: int, wanted: str, grouping: str = "samples", dtype: str = "bfloat16", **more: Any) -> str:
        got = plan(512, labels, dtype, grouping, strategy=STRATEGIES[wanted], device=device, **more)
        return got["strategy"]

    for wanted in STRATEGIES:
        assert strategy(131_072, wanted, "element") == "element-wise"
        assert strategy(131_072, wanted, "macro") == "split"
        assert strategy(131_072, wanted, "micro") == "split"
        assert strategy(131_072, wanted, dtype="float64") == "split"
        assert strategy(131_072, wanted, team_threads=0) == "split"
    for labels in (1, 8_192, 131_073, HELD["bfloat16"]):
        assert strategy(labels, "team") == "team"
        assert strategy(labels, "split") == "split"
    # The longest row that the device holds: 64 bytes a thread of 16 bits, in whole chunks.
    most = DEVICES[device]["sm_count"] * TEAM_THREADS * CHUNKS_PER_THREAD * WIDTH["bfloat16"]
    assert strategy(most, "team") == "team"
    assert strategy(most + WIDTH["bfloat16"], "team") == "split"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HELD)
def test_rows_are_read_once(plan, device: str, dtype: str) -> None:
    for labels, rows in itertools.product((1, 7, 80, 1_000, 32_000, 131_073, 670_091, 1_500_000, HELD[dtype]), ROWS):
        forced = plan(rows, labels, dtype, strategy=STRATEGIES["team"], device=device)
        assert (forced["strategy"], forced["reads"]) == ("team", 1)
        got = plan(rows, labels, dtype, device=device)
        if forced["blocks"] > forced["team"] or rows == 1:
            assert got == forced
        elif got != forced:
            # One team at a time would be slower by a tenth.
            assert got["strategy"] == "split"
            assert got["fraction"] > 1.1 * forced["fraction"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("team_threads", (512, 768))
def test_two_teams_work_at_once_where_they_fit(plan, device: str, team_threads: int) -> None:
    processors = DEVICES[device]["sm_count"]
    most = processors * team_threads // 256 // 2 * 256 * CHUNKS_PER_THREAD * WIDTH["bfloat16"]
    for labels, rows in itertools.product((1, 80, 131_073, 670_091, most), (2, 3, 64, 4096)):
        arguments = {"strategy": STRATEGIES["team"], "team_threads": team_threads, "device": device}
        got = plan(rows, labels, "bfloat16", **arguments)
        assert got["blocks"] >= 2 * got["team"]
        assert plan(1, labels, "bfloat16", **arguments)["blocks"] <= processors * team_threads // 32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_does_not_change_the_tiles(plan, device: str, strategy: str) -> None:
    """So the value is the same, bit for bit."""
    for dtype, rows, labels in itertools.product(SIZE, ROWS, LABELS):
        arguments = {"strategy": STRATEGIES[strategy], "device": device}
        with_gradient = plan(rows, labels, dtype, gradient=True, **arguments)
        without = plan(rows, labels, dtype, gradient=False, **arguments)
        assert without["reads"] == 1
        for name in ("strategy", "threads", "tiles", "chunks_per_tile", "chunks_per_warp", "team"):
            assert with_gradient[name] == without[name]


@pytest.mark.parametrize("device", DEVICES)
def test_waves_stay_in_l2(plan, device: str) -> None:
    l2_bytes, processors = DEVICES[device]["l2_bytes"], DEVICES[device]["sm_count"]
    for labels, dtype in itertools.product((131_073, 2_812_281), SIZE):
        got = plan(512, labels, dtype, strategy=STRATEGIES["split"], device=device)
        in_cache = got["rows_per_wave"] * labels * SIZE[dtype]
        assert got["rows_per_wave"] == 1 or in_cache <= 0.4 * l2_bytes < in_cache + labels * SIZE[dtype]
        assert got["chunks_per_tile"] >= 8 * got["threads"]
        assert got["rows_per_wave"] * got["tiles"] >= processors
        # Without a gradient nothing is read again, so there is one wave.
        once = plan(512, labels, dtype, gradient=False, strategy=STRATEGIES["split"], device=device)
        assert once["rows_per_wave"] == 512


def test_a_few_plans(plan) -> None:
    def team(rows: int, labels: int, dtype: str = "bfloat16", **more: Any) -> tuple[int, int, int]:
        got = plan(rows, labels, dtype, **more)
        assert got["strategy"] == "team"
        return got["team"], got["threads"], got["blocks"] // got["team"]

    # Blocks a row, threads a block, teams.
    assert team(4_096, 5_000) == (1, 96, 1_056)
    assert team(4_096, 8_192) == (1, 128, 792)
    assert team(512, 131_073) == (8, 256, 49)
    assert team(64, 670_091) == (44, 256, 9)
    assert team(48, 2_812_281) == (198, 256, 2)
    assert team(48, 2_812_281, "float32") == (396, 256, 1)
    # Few rows are shared by the whole device.
    assert team(1, 131_073) == (64, 256, 1)
    assert team(64, 131_072) == (12, 256, 33)
    assert plan(48, 4_000_000, "bfloat16", device="B200")["strategy"] == "split"
    assert plan(512, 131_073, "bfloat16")["forward"] == (
        "team: 392 blocks of 256 threads, 8 blocks a row, 8 chunks a thread, logits read once; "
        "predicted 0.71 of the floor, bound by latency"
    )
    assert plan(512, 131_073, "bfloat16", strategy=STRATEGIES["split"])["forward"].startswith("split: ")


# For 16-bit ZLPR on an H100 and on an H200: teams in lock step and teams that overlap fully, by a fluid model that
# follows every block. It is a prediction too.
FLUID = {
    5_000: ((0.57, 1.0), (0.48, 0.96)),
    8_192: ((0.62, 1.0), (0.53, 1.0)),
    32_000: ((0.62, 1.0), (0.54, 1.0)),
    131_073: ((0.62, 1.0), (0.54, 0.98)),
    670_091: ((0.62, 1.0), (0.53, 0.92)),
    2_812_281: ((0.61, 0.86), (0.52, 0.71)),
}


@pytest.mark.parametrize("labels", FLUID)
def test_predictions_lie_between_lock_step_and_overlap(plan, labels: int) -> None:
    for device, (low, high) in zip(("H100", "H200"), FLUID[labels], strict=True):
        many = plan(4_096 if labels < 100_000 else 512, labels, "bfloat16", device=device)
        assert low <= many["fraction"] <= high
        split = plan(512, labels, "bfloat16", device=device, strategy=STRATEGIES["split"])
        assert split["fraction"] < many["fraction"]


def test_design_page_has_the_predictions() -> None:
    assert predict.rendered() in DESIGN.read_text()


def test_forward_without_gradient_reads_once(plan) -> None:
    for strategy in STRATEGIES.values():
        assert plan(512, 131_072, "float32", gradient=False, strategy=strategy)["reads"] == 1


def test_unknown_device_gets_the_preceding_family(plan) -> None:
    assert plan(64, 9_000, "float32", capability=103) == plan(64, 9_000, "float32", device="B200")
    assert plan(64, 9_000, "float32", capability=90) == plan(64, 9_000, "float32", device="H100")
    assert plan(64, 9_000, "float32", capability=75) == plan(64, 9_000, "float32", device="A100")


def test_unknown_names_are_refused(plan) -> None:
    with pytest.raises(ValueError, match="dtype"):
        plan(64, 9_000, "float8")
    with pytest.raises(ValueError, match="grouping"):
        plan(64, 9_000, "float32", "columns")
    with pytest.raises(ValueError, match="device"):
        plan(64, 9_000, "float32", device="abacus")
