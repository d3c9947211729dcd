"""With one sign flipped in each functor, every value test must fail."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import flips

# All of these tests need one build, so one process runs them.
pytestmark = pytest.mark.xdist_group("sign flip")

ROOT = Path(__file__).parent.parent.parent
# Losses of two logits have no case.
FLIPS = (
    *flips(),
    ("symmetric_kl", "symmetric_kl.h", "copysign(gap, difference)", "gap"),
)
# Tests of one dtype: one that every case runs, and a second one for cases that stand for a path.
DTYPE, OTHER_DTYPES = "bfloat16", ("float", "double", "half")
TESTS = (
    "tests/test_strategies.py::test_rows_of_one_chunk_and_of_many",
    "tests/test_values.py::test_dtypes_reductions_shapes",
    "tests/test_symmetric_kl.py::test_dtypes_reductions_shapes",
    *("-k", f"chunk_and_of_many or ({DTYPE} and mean and 37)"),
)
# Replaces a dtype's kernels, which take a minute to compile.
NO_KERNELS = """#include "kernels.h"
namespace mlloss {{ cuda::Table cuda::table_{}() {{ return {{}}; }} }}
"""


@functools.cache
def run_tests(library: Path) -> list[tuple[str, str]]:
    """Return the outcome and parameters of each emulated test."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--emulated", str(library), "-q", "-rA", "--tb=no", *TESTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return re.findall(r"^(PASSED|FAILED|ERROR) .*?\[(.*)", done.stdout, re.MULTILINE)


def outcomes(library: Path, loss: str) -> set[str]:
    return {outcome for outcome, parameters in run_tests(library) if f"{loss}(" in parameters}


@pytest.fixture(scope="module")
def flipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulated library from a copy of the sources with all flips: a loss's tests run only that loss's functor."""
    source = tmp_path_factory.mktemp("flipped")
    for name in ("csrc", "tests/emulator"):
        shutil.copytree(ROOT / name, source / name)
    shutil.copy(ROOT / "CMakeLists.txt", source)
    for _, name, sign, other in FLIPS:
        path = source / "csrc" / "losses" / name
        text = path.read_text()
        assert text.count(sign) == 1, f"{name} no longer has this term once: {sign}"
        path.write_text(text.replace(sign, other))
    for dtype in OTHER_DTYPES:
        (source / "csrc" / "cuda" / "host" / f"kernels_{dtype}.cu").write_text(NO_KERNELS.format(dtype))
    build(request.config.getoption("--races"), source)
    return source / "build" / "tests" / "emulator" / "emulated.so"


def build(programs: Path, source: Path) -> None:
    """Build the emulated library with the settings of the folder that --races names."""
    cache = (programs / ".." / ".." / "CMakeCache.txt").read_text()
    settings = dict(re.findall(r"^(\w+):\w+=(.*)$", cache, re.MULTILINE))
    passed_on = {name: value for name, value in settings.items() if name.startswith("MLLOSS_")}
    passed_on |= {name: settings[name] for name in ("CMAKE_MAKE_PROGRAM", "CMAKE_CXX_COMPILER", "CMAKE_BUILD_TYPE")}
    definitions = [f"-D{name}={value}" for name, value in passed_on.items()]
    cmake, folder = settings["CMAKE_COMMAND"], str(source / "build")
    subprocess.run([cmake, "-S", str(source), "-B", folder, "-G", "Ninja", *definitions], check=True)
    subprocess.run([cmake, "--build", folder, "--target", "emulated"], check=True)


@pytest.mark.parametrize("loss", [loss for loss, *_ in FLIPS])
def test_one_flipped_sign_fails_every_value_test(flipped: Path, loss: str) -> None:
    assert outcomes(flipped, loss) == {"FAILED"}


@pytest.mark.parametrize("loss", [loss for loss, *_ in FLIPS])
def test_same_tests_pass_without_the_flip(request: pytest.FixtureRequest, loss: str) -> None:
    assert outcomes(request.config.getoption("--races") / "emulated.so", loss) == {"PASSED"}
