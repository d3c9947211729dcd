"""The build's results: the libraries, where they import from, the instruction sets, CUDA without a GPU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import _backends, _extension, _ops

from . import instruction_sets
from .cases import Case
from .inputs import Outcome, evaluate, random_logits, random_positives, random_probabilities
from .new_process import run_python

ROOT = Path(__file__).parent.parent
PACKAGE = Path(mlloss_cuda.__file__).parent


def library(name: str) -> Path:
    return next(PACKAGE.glob(f"{name}.*so"))


@pytest.mark.parametrize("folder", (ROOT, Path("/")), ids=("root", "elsewhere"))
def test_imports_with_its_libraries(folder: Path) -> None:
    code = "import mlloss_cuda as m; assert m.backends()['cpu'].usable, m.backends(); print(m.__version__)"
    done = run_python("-c", code, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == mlloss_cuda.__version__


def test_libraries_contain_no_build_path() -> None:
    for name in ("_C", "_cpu"):
        assert str(ROOT).encode() not in library(name).read_bytes()


def test_info_reports_versions_and_backends() -> None:
    done = run_python("-m", "mlloss_cuda", "info", "--shape", "512x131072")
    assert done.returncode == 0, done.stderr
    for word in ("mlloss_cuda", "torch", "cpu", "cuda", "triton", "reference", "H100"):
        assert word in done.stdout
    for name, status in mlloss_cuda.backends().items():
        assert name in done.stdout
        assert status.reason in done.stdout


def test_info_refuses_a_bad_shape() -> None:
    done = run_python("-m", "mlloss_cuda", "info", "--shape", "wide")
    assert done.returncode == 2
    assert "--shape" in done.stderr


def test_cuda_library_loads_without_a_gpu() -> None:
    """The ops register even on a CPU-only torch, and ``backends()`` says why they cannot run there."""
    if not _extension.build_information()["cuda"]:
        assert "no nvcc" in mlloss_cuda.backends()["cuda"].reason
        return
    assert not _extension.cuda_missing
    for schema in _ops._SCHEMAS:
        op = schema.partition("(")[0]
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mlloss_cuda::{op}", "CUDA")
    if torch.version.cuda is None:
        assert "has no CUDA" in mlloss_cuda.backends()["cuda"].reason


# ---- instruction sets ----------------------------------------------------------------------------


@pytest.fixture
def kept_instruction_set() -> Iterator[None]:
    before = instruction_sets.active()
    yield
    instruction_sets.choose(before)


@pytest.mark.usefixtures("kept_instruction_set")
def test_every_instruction_set_agrees(case: Case, generator: torch.Generator) -> None:
    """Instruction sets differ only in the order of sums."""
    *others, best = instruction_sets.usable()
    inputs = [
        (random_logits(generator, (9, 2200), dtype, "cpu"), targets)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        for targets in (random_positives(generator, (9, 2200), 0.01), random_probabilities(generator, (9, 2200)))
    ]
    assert instruction_sets.choose(best)
    expected: list[Outcome] = [evaluate(case, x, y) for x, y in inputs]
    for name in others:
        assert instruction_sets.choose(name)
        for (x, y), outcome in zip(inputs, expected, strict=True):
            got = evaluate(case, x, y)
            torch.testing.assert_close(got.value, outcome.value, rtol=2e-6, atol=1e-7)
            eps = torch.finfo(x.dtype).eps
            torch.testing.assert_close(got.gradient, outcome.gradient, rtol=8 * eps + 2e-6, atol=1e-7)


def test_unusable_instruction_set_is_not_chosen() -> None:
    before = instruction_sets.active()
    missing = set(instruction_sets.NAMES) - set(instruction_sets.usable())
    assert not any(instruction_sets.choose(name) for name in missing)
    assert instruction_sets._library().mlloss_cpu_isa(7) == instruction_sets.NAMES.index(before)
    assert set(instruction_sets.usable()) <= set(_extension.build_information()["cpu"].split())


def test_instruction_sets_do_not_merge_at_link() -> None:
    """Every function of a kernel object is in its instruction set's own namespace, except its table.

    Otherwise the linker would merge templates of one name from two sets, and an AVX2 machine would run AVX-512.
    """
    objects = sorted((ROOT / "build" / "native").glob("**/cpu_kernels_*.dir/**/*.o"))
    assert objects, "no kernel objects under build/native: was the extension built with make build?"
    for path in objects:
        isa = path.as_posix().split("cpu_kernels_")[1].split(".dir")[0]
        assert shutil.which("nm"), "nm was not found; it comes with the compiler"
        listed = subprocess.run(["nm", "-C", "--defined-only", str(path)], capture_output=True, text=True, check=True)
        symbols = [line.split(maxsplit=2)[2] for line in listed.stdout.splitlines()]
        foreign = [
            name for name in symbols if f"mlloss::{isa}::" not in name and f"table_{isa}" not in name and name[0] != "."
        ]
        assert not foreign, f"{isa}: {foreign[:5]}"
        assert any(f"mlloss::{isa}::" in name for name in symbols)


@pytest.mark.parametrize(
    ("driver", "capability", "reason"),
    [
        (13010, (9, 0), ""),
        (12090, (9, 0), "driver supports 12.9"),
        (13000, (7, 5), "capability 8.0, and Some GPU has 7.5"),
    ],
)
def test_cuda_needs_its_driver_and_capability(
    monkeypatch: pytest.MonkeyPatch, driver: int, capability: tuple[int, int], reason: str
) -> None:
    """The CUDA backend is unusable with an old driver or GPU, and ``backends()`` gives the reason."""
    monkeypatch.setattr(_backends, "cuda_missing", "")
    monkeypatch.setattr(_backends, "build_information", lambda: {"cuda": "13.0.88"})
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device else (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
    status = mlloss_cuda.backends()["cuda"]
    assert status.usable == (reason == "")
    assert reason in status.reason


def test_reserved_multiprocessors() -> None:
    assert mlloss_cuda.reserve_multiprocessors(2) == 0
    assert mlloss_cuda.reserve_multiprocessors(0) == 2
    with pytest.raises(ValueError, match="count: expected 0 or more"):
        mlloss_cuda.reserve_multiprocessors(-1)
    with pytest.raises(TypeError, match="count: expected an int"):
        mlloss_cuda.reserve_multiprocessors(True)
