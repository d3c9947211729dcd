"""The engine's kernels under the race detector, and whether any barrier of theirs could be left out unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Run

ENGINE = Path(__file__).parent.parent.parent / "csrc" / "cuda"
DTYPES = ("float", "double", "half", "bfloat16")
DTYPES_BRIEF = DTYPES[:3]  # one of each width
# A wrapper that passes its caller's place on is told by its callers.
ORDERING = re.compile(r"\b(__syncthreads\w*|__syncwarp|__threadfence\w*|(?<!void )cluster_sync)\s*\(")


def barriers() -> list[str]:
    """Every barrier and fence of the kernels, as file:line."""
    return [
        f"{path.name}:{number}"
        for path in sorted(ENGINE.glob("*.cu*"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ORDERING.search(line.split("//")[0])
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES_BRIEF if metafunc.config.getoption("--brief") else DTYPES)


def test_no_races(request: pytest.FixtureRequest, run: Run, dtype: str) -> None:
    done = run("race_driver", *(["-b"] if request.config.getoption("--brief") else []), dtype)
    failed = [line for line in done.stdout.splitlines() if not line.endswith(": ok")]
    assert done.returncode == 0, "\n".join(failed)


def test_barriers_are_found() -> None:
    """A block's sum needs its two at least: else the scan has gone blind, and there is nothing to leave out."""
    assert sum(place.startswith("block_reduce.cuh:") for place in barriers()) >= 2


@pytest.mark.parametrize("place", barriers())
def test_no_barrier_can_be_left_out(run: Run, place: str) -> None:
    """One that nobody misses is superfluous, or something that it orders is not tested."""
    for words in (["double"], []):  # most are missed in the smallest dtype already
        if run("race_driver", "-x", *words, CUEMU_SKIP_SYNC=place).returncode != 0:
            return
    pytest.fail(f"nothing fails without the barrier at {place}")
