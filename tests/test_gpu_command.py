"""What ``make gpu`` does when something goes wrong, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.competitors import Case
from bench.gpu import __main__ as command
from bench.gpu import benchmark, parts, small
from bench.gpu.device import Device
from bench.gpu.matrix import dry_groups

ROOT = Path(__file__).parent.parent
BREAKS = """\
import pytest
@pytest.mark.parametrize("i", range(8))
def test_one(i):
    assert i != 1
    if i == 3:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
"""


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parts, "_LOGS", tmp_path / "logs")
    return tmp_path / "logs"


@pytest.mark.parametrize("workers", (0, 2))
def test_a_broken_context_ends_its_process_alone(tmp_path: Path, workers: int) -> None:
    """Of eight tests two fail; each failure is in the file, and by pytest-xdist all others run."""
    if workers and not find_spec("xdist"):
        pytest.skip("pytest-xdist is not installed")
    (tmp_path / "test_it.py").write_text(BREAKS)
    # As on a GPU: one by one, where tests are known by groups xdist fails on a worker that ends.
    distributed = ["-p", "xdist", "-n", "2", "--dist", "load", "--maxschedchunk", "1"] if workers else []
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.failures", "--failures", "failures.txt", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = [sys.executable, "-m", "pytest", *options, *distributed]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout
    assert ("6 passed" if workers else "2 passed") in done.stdout
    text = (tmp_path / "failures.txt").read_text()
    failed = parts._failed(tmp_path / "failures.txt")
    assert set(failed) == {"test_it.py::test_one[1]", "test_it.py::test_one[3]"}
    assert len(failed) == 2 + bool(workers)  # and that a worker ended
    assert "illegal memory access" in text
    assert "assert 1 != 1" in text


def test_children_end_with_the_command(tmp_path: Path) -> None:
    """A child of a child too, at SIGTERM."""
    sleeps = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    code = f"""
import signal, sys
from pathlib import Path
from bench.gpu import __main__ as command, parts
parts._LOGS = Path({str(tmp_path)!r})
command.clear = lambda: None
started = lambda name: parts._Started(name, [sys.executable, "-c", {sleeps!r}], 600, {{}})
def wait(options):
    first, second = started("first"), started("second")
    first.wait()
command._build = wait
command.main(["--dry-run"])
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    asleep = [_number_in(tmp_path / f"{name}.log") for name in ("first", "second")]
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 128 + signal.SIGTERM
    for pid in asleep:
        _wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists() or _is_dead(pid))


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _number_in(path: Path) -> int:
    _wait_for(lambda: path.exists() and path.read_text().strip().isdigit())
    return int(path.read_text())


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "status, failures, verdict",
    (
        (0, "", True),
        (1, "FAILED a::b\nE   wrong\n", False),
        (parts._TIMED_OUT, "", None),
        (parts._TIMED_OUT, "FAILED a::b\nE   wrong\n", False),
        (3, "", False),
    ),
)
def test_out_of_time_is_no_failure(logs: Path, status: int, failures: str, verdict: bool | None) -> None:
    logs.mkdir()
    (logs / "tests-cuda-failures.txt").write_text(failures)
    log = logs / "tests-cuda.log"
    log.write_text("said\n")
    right, words, results = parts._ended_tests("cuda", parts._Ended(status, log, 1.0))
    assert right is verdict
    assert ("out of time" in words) == (status == parts._TIMED_OUT)
    assert results["failed"] == (["a::b"] if failures else [])


def test_racecheck_alone_fails_nothing(logs: Path) -> None:
    logs.mkdir()
    log = logs / "tool.log"
    log.write_text("7 of 9 cases, seed 1\n========= ERROR SUMMARY: 3 errors\n")
    for tool, verdict in (("memcheck", False), ("synccheck", False), ("racecheck", None)):
        right, words, _ = parts._ended_tool(tool, parts._Ended(parts._FOUND_ERRORS, log, 1.0))
        assert right is verdict
        assert words == f"{tool} ERROR SUMMARY: 3 errors, 7 of 9 cases, seed 1"


def test_logs_come_back_with_the_results(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a part raises; one alone has all of the time, of several each its share."""
    given = []
    terminates = signal.getsignal(signal.SIGTERM)

    def fails(dry: bool, seconds: float, first: bool) -> parts.Part:
        given.append((seconds, first))
        logs.mkdir(exist_ok=True)
        (logs / "tests-cuda.log").write_text("found\n")
        if not first:
            raise RuntimeError("unforeseen")
        return parts.Part("first", None, "out of time", 1.0)

    results = tmp_path / "results"
    monkeypatch.setattr(command, "_folder", lambda options: results)
    results.mkdir()
    monkeypatch.setattr(command, "tests", fails)
    monkeypatch.setattr(command, "capability", lambda: "")
    arguments = ["--dry-run", "--no-build", "--results", str(results), "--limit", "100"]
    assert command.main([*arguments, "--part", "first"]) == 2
    assert "out of time" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="unforeseen"):
        command.main(arguments)
    with tarfile.open(results / "logs.tar.gz") as archive:
        assert "logs/tests-cuda.log" in archive.getnames()
    assert given[0] == (pytest.approx(95, abs=10), True)
    assert given[1] == (pytest.approx(95 * 4 / 9, abs=10), False)
    signal.signal(signal.SIGTERM, terminates)


def test_sanitizers_meet_every_kernel_early() -> None:
    work = small._work(Device(True), 3)
    kernels = [(case.name, str(case.arguments), way.name) for _, _, case, way in work]
    assert len(set(kernels[: len(set(kernels))])) == len(set(kernels))
    assert work == small._work(Device(True), 3)
    assert work != small._work(Device(True), 4)


def test_a_case_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is on disk, and what went wrong beside it."""
    measure_case = benchmark.measure_case

    def fails_once(case: Case, *rest: Any) -> None:
        if case.name == "focal":
            raise RuntimeError("no truth")
        measure_case(case, *rest)

    def stays() -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(benchmark, "measure_case", fails_once)
    options = SimpleNamespace(dry_run=True, full=False, seed=1, seconds=1e9, json=tmp_path / "bench.json")
    run = benchmark.Run(options)
    run.cases = run.cases[:3]
    run.bandwidth = {name: {"kernel": "", "bytes_per_second": 1e9} for name in ("copy", "read")}
    run._group(dry_groups()[0])
    results = json.loads(options.json.read_text())
    assert results["failures"] == ["6 x 1,001, bfloat16, focal: RuntimeError: no truth"]
    assert {entry["case"] for entry in results["times"] if entry["ms"]} == {run.cases[0].name, run.cases[2].name}
    # An error that stays is raised, once what is known is written.
    monkeypatch.setattr(run.device, "synchronize", stays)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run._group(dry_groups()[1])
    # Strategies that were not the planned ones are told.
    (first, *_) = (timed for timed in run.times if timed.ours)
    first.ran = "another"
    assert any(f"planned {first.strategy}, ran another" in failure for failure in run.failures())
