"""The engine's kernels have no races, and the race detector notices if any barrier is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Run

ENGINE = Path(__file__).parent.parent.parent / "csrc" / "cuda"
DTYPES = ("float", "double", "half", "bfloat16")
DTYPES_BRIEF = DTYPES[:3]  # one of each width
WITHOUT_TEAMS = "double"
ORDERING = re.compile(r"\b(__syncthreads\w*|__syncwarp|__threadfence\w*)\s*\(")
# Headers that only team kernels use.
OF_TEAMS = (
    "team.cuh",
    "team_general.cuh",
    "team_join.cuh",
    "hard_row.cuh",
    "general_row.cuh",
    "target_bits.cuh",
)


def barriers() -> list[str]:
    """Return every barrier and fence of the kernels as file:line."""
    return [
        f"{path.name}:{number}"
        for path in sorted(ENGINE.rglob("*.cu*"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ORDERING.search(line.split("//")[0])
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES_BRIEF if metafunc.config.getoption("--brief") else DTYPES)


def assert_no_failures(request: pytest.FixtureRequest, run: Run, *words: str, order: str) -> None:
    done = run("race_driver", *(["-b"] if request.config.getoption("--brief") else []), *words, CUEMU_ORDER=order)
    failed = [line for line in done.stdout.splitlines() if not line.endswith(": ok")]
    assert done.returncode == 0, "\n".join(failed)


def test_no_races(request: pytest.FixtureRequest, run: Run, dtype: str) -> None:
    assert_no_failures(request, run, dtype, order="fifo")


def test_no_races_if_blocks_run_ahead(request: pytest.FixtureRequest, run: Run, dtype: str) -> None:
    """In this order the blocks of a team are as far apart as their packets allow; fifo keeps them nearly in step."""
    if dtype != WITHOUT_TEAMS:
        assert_no_failures(request, run, dtype, "team", order="lifo")


def test_barriers_are_listed() -> None:
    """A block's sum needs at least two barriers; if none were found, nothing would be left out below."""
    assert sum(place.startswith("block_reduce.cuh:") for place in barriers()) >= 2
    assert {place.partition(":")[0] for place in barriers()} >= {"team.cuh", "team_general.cuh", "team_join.cuh"}


@pytest.mark.parametrize("place", barriers())
def test_no_barrier_can_be_left_out(run: Run, place: str) -> None:
    """A barrier whose absence no run notices is superfluous, or an access that it orders is not tested."""
    teams = (("fifo", "float", "team"), ("lifo", "float", "team"))
    others = (("fifo", "double"), ("fifo",))
    for order, *words in teams if place.partition(":")[0] in OF_TEAMS else others:
        if run("race_driver", "-x", *words, CUEMU_ORDER=order, CUEMU_SKIP_SYNC=place).returncode != 0:
            return
    pytest.fail(f"no run fails without the barrier at {place}")
