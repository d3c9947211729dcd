"""The launch planner: plain host code, so that every device's plans are tested without one."""

from __future__ import annotations

import pytest

from mlloss_cuda import _backends

ROWS = (1, 2, 64, 4096)
LABELS = (1, 31, 5_000, 8_192, 131_072, 131_073, 670_091, 3_000_000)
WIDTH = {"float64": 2, "float32": 4, "bfloat16": 8, "float16": 8}
# Shared memory that a block may ask for, in bytes.
SHARED = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}
AUTOMATIC, STREAMING, RESIDENT = 0, 2, 3


@pytest.fixture
def plan():
    if _backends.launch_plan is None:
        pytest.fail("the compiled extension is not installed")
    return _backends.launch_plan


@pytest.mark.parametrize("dtype", WIDTH)
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("element_wise", (False, True))
@pytest.mark.parametrize("strategy", (AUTOMATIC, STREAMING, RESIDENT))
def test_plans_can_be_launched(plan, dtype: str, capability: int, element_wise: bool, strategy: int) -> None:
    for rows in ROWS:
        for labels in LABELS:
            got = plan(rows, labels, dtype, element_wise, True, capability, strategy)
            assert 1 <= got["blocks"] < 2**31
            assert 32 <= got["threads"] <= 1024
            assert got["threads"] % 32 == 0
            assert 0 <= got["shared_bytes"] < SHARED[capability]
            assert got["vector_width"] == WIDTH[dtype]
            assert got["strategy"] in got["forward"]
            assert got == plan(rows, labels, dtype, element_wise, True, capability, strategy)


@pytest.mark.parametrize("capability", SHARED)
def test_strategies(plan, capability: int) -> None:
    def strategy(labels: int, wanted: int, *, element_wise: bool = False, dtype: str = "bfloat16") -> tuple[str, int]:
        got = plan(512, labels, dtype, element_wise, True, capability, wanted)
        return got["strategy"], got["reads"]

    assert strategy(131_072, AUTOMATIC, element_wise=True) == ("element-wise", 1)
    assert strategy(131_072, AUTOMATIC) == ("streaming", 2)
    # Resident on request, where a row fits; the longest row that does is a block's shared memory.
    assert strategy(8_192, RESIDENT) == ("resident", 1)
    longest = (SHARED[capability] - 1_024) // 2 - 16
    assert strategy(longest, RESIDENT) == ("resident", 1)
    assert strategy(longest + 64, RESIDENT) == ("streaming", 2)
    assert strategy(8_192, STREAMING) == ("streaming", 2)


def test_statistics_alone_are_one_read(plan) -> None:
    assert plan(512, 131_072, "float32", False, False, 90)["reads"] == 1


def test_an_unknown_device_gets_the_family_before_it(plan) -> None:
    assert plan(64, 9_000, "float32", False, True, 103) == plan(64, 9_000, "float32", False, True, 100)
    assert plan(64, 9_000, "float32", False, True, 75) == plan(64, 9_000, "float32", False, True, 80)
