"""The programs `python -m demo` and `python -m bench` at their smallest sizes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from bench import compare, figures, page, plots, readme
from bench.implementations import all_cases

from .new_process import run_python

ROOT = Path(__file__).parent.parent
DTYPES = ("float32", "bfloat16")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", *arguments, folder=ROOT, **environment)


def test_demo_smoke(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    done = run("demo", "--smoke", "--output", str(plot))
    assert done.returncode == 0, done.stderr
    for word in ("ZLPR", "focal", "Dice", "BCE", "LinearLoss", "precision at"):
        assert word in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_bad_flags() -> None:
    done = run("demo", "--minutes", "soon")
    assert done.returncode == 2
    assert "--minutes" in done.stderr


def test_bench_quick(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run("bench", "--quick", "--json", str(results))
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text())
    assert not written["left_out"]
    # Every loss is timed in every layout, with its memory, and so are all peers but the compiled ones.
    cases = {case.name: case for case in all_cases()}
    names = cases.keys()
    for dtype, peers in (("float32", {"eager", "plain"}), ("bfloat16", {"eager", "float32"})):
        of_dtype = [entry for entry in written["times"] if entry["dtype"] == dtype]
        assert {entry["case"] for entry in of_dtype} == names
        for entry in of_dtype:
            case = cases[entry["case"]]
            ours = {*case.layouts, *(["inplace"] if case.takes_targets else [])}
            assert {*ours, "copy", "eager"} <= entry["summary"].keys()
            assert all(
                figures_of["of_the_floor"] > 0 for name, figures_of in entry["summary"].items() if name != "copy"
            )
        assert peers <= {name for entry in of_dtype for name in entry["summary"]}
    if written["memory"]:
        assert {(row["case"], row["dtype"]) for row in written["memory"]} == {(n, d) for n in names for d in DTYPES}


# The command replaces its logs, so one process runs its tests.
@pytest.mark.xdist_group("logs of the GPU command")
def test_gpu_dry_run(tmp_path: Path) -> None:
    """A dry run goes through the benchmark on the CPU, and writes no file beside real results."""
    before = sorted((ROOT / "bench" / "results").iterdir())
    done = run("bench.gpu", "--dry-run", "--no-build", "--part", "bench", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DRY RUN" in done.stdout
    assert sorted((ROOT / "bench" / "results").iterdir()) == before
    (path,) = tmp_path.glob("*/dry-run-bench.json")
    results = json.loads(path.read_text())
    assert results["dry_run"]
    assert not results["failures"]
    assert {time["mode"] for time in results["times"]} == {"step", "scaled", "forward"}
    assert all(time["ms"] for time in results["times"] if time["competitor"] in ("fused", "csr"))
    assert {(one["loss"], bool(one["ms"])) for one in results["linear"]} == {("bce", True), ("zlpr", True)}
    # The README's table, the page and its pictures can be drawn from such a file.
    assert "TB/s" in readme.gpu_block([results], labels=1_001)
    loaded = figures.load(path)
    assert "### 6 x 1,001, bfloat16" in page.rendered([loaded]).partition("**GPUs**")[2]
    plots.draw([loaded], tmp_path)
    assert {picture.name for picture in tmp_path.glob("*.svg")} == set(plots.pictures_of(loaded).values())
    assert compare.main([str(path), str(path)]) == 0


@pytest.mark.xdist_group("logs of the GPU command")
def test_gpu_benchmark_fails_without_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        done = run("bench.gpu", "--no-build", "--results", str(tmp_path))
        assert done.returncode == 1
        assert "DRY=1" in done.stderr
