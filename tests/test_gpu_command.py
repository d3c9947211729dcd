"""``make gpu`` when something goes wrong, on a machine without a GPU."""

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

from bench.gpu import __main__ as command
from bench.gpu import benchmark, parts, processes, profile, small, suite
from bench.gpu.device import Device
from bench.gpu.plan import MAIN_LABELS, default_groups, dry_groups, narrowed, quick_groups
from bench.implementations import Case

from . import test_cuda
from .conftest import STRATEGIES

ROOT = Path(__file__).parent.parent
FACTS = {"name": "dry-run", "header": {}, "unusable": ""}
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
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    return tmp_path / "logs"


@pytest.mark.parametrize("workers", (0, 2))
def test_a_broken_context_ends_its_process_alone(tmp_path: Path, workers: int) -> None:
    """Two of eight tests fail: each failure is in the file, and with pytest-xdist all other tests run."""
    if workers and not find_spec("xdist"):
        pytest.skip("pytest-xdist is not installed")
    (tmp_path / "test_it.py").write_text(BREAKS)
    # Tests are distributed one by one, as on a GPU: with groups xdist fails on a worker that ends.
    distributed = ["-p", "xdist", "-n", "2", "--dist", "load", "--maxschedchunk", "1"] if workers else []
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.failures", "--failures", "failures.txt", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = [sys.executable, "-m", "pytest", *options, *distributed]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout
    assert ("6 passed" if workers else "2 passed") in done.stdout
    text = (tmp_path / "failures.txt").read_text()
    failed = suite.failed_in(tmp_path / "failures.txt")
    assert set(failed) == {"test_it.py::test_one[1]", "test_it.py::test_one[3]"}
    assert len(failed) == 2 + bool(workers)  # with workers, the end of a worker is reported too
    assert "illegal memory access" in text
    assert "assert 1 != 1" in text


def test_children_end_with_the_command(tmp_path: Path) -> None:
    """SIGTERM also ends the children of children."""
    sleeps = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    code = f"""
import signal, sys
from pathlib import Path
from bench.gpu import __main__ as command, processes
processes.LOGS = Path({str(tmp_path)!r})
command.clear = lambda: None
started = lambda name: processes.Started(name, [sys.executable, "-c", {sleeps!r}], 600, {{}})
def wait(options, done, end):
    first, second = started("first"), started("second")
    first.wait()
command._ready = wait
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
        (processes.TIMED_OUT, "", None),
        (processes.TIMED_OUT, "FAILED a::b\nE   wrong\n", False),
        (3, "", False),
    ),
)
def test_out_of_time_is_no_failure(logs: Path, status: int, failures: str, verdict: bool | None) -> None:
    logs.mkdir()
    (logs / "tests-cuda-failures.txt").write_text(failures)
    log = logs / "tests-cuda.log"
    log.write_text("said\n")
    right, words, results = suite.ended_tests("tests-cuda", processes.Ended(status, log, 1.0))
    assert right is verdict
    assert ("out of time" in words) == (status == processes.TIMED_OUT)
    assert results["failed"] == (["a::b"] if failures else [])


def test_racecheck_alone_fails_nothing(logs: Path) -> None:
    logs.mkdir()
    log = logs / "tool.log"
    log.write_text("7 of 9 cases, seed 1\n========= ERROR SUMMARY: 3 errors\n")
    for tool, verdict in (("memcheck", False), ("synccheck", False), ("racecheck", None)):
        right, words, _ = parts.ended_tool(tool, processes.Ended(parts._FOUND_ERRORS, log, 1.0))
        assert right is verdict
        assert words == f"{tool} ERROR SUMMARY: 3 errors, 7 of 9 cases, seed 1"


def test_logs_come_back_with_the_results(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs come back also if a part raises. A single part has all the time; several parts share it."""
    given = []
    terminates = signal.getsignal(signal.SIGTERM)

    def fails(asked: suite.Suite, seconds: float, save: Any) -> processes.Part:
        given.append((seconds, asked.first))
        logs.mkdir(exist_ok=True)
        (logs / "tests-cuda.log").write_text("found\n")
        save({"found": 1})
        if not asked.first:
            raise RuntimeError("unforeseen")
        return processes.Part("first", None, "out of time", 1.0)

    results = tmp_path / "results"
    monkeypatch.setattr(command, "_folder", lambda options: results)
    results.mkdir()
    monkeypatch.setattr(command, "tests", fails)
    monkeypatch.setattr(command, "facts", lambda dry, seconds: (processes.Part("step", True, "", 0.0), FACTS))
    arguments = ["--dry-run", "--no-build", "--results", str(results), "--limit", "100"]
    assert command.main([*arguments, "--part", "first"]) == 2
    assert "out of time" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="unforeseen"):
        command.main(arguments)
    with tarfile.open(results / "logs.tar.gz") as archive:
        assert "logs/tests-cuda.log" in archive.getnames()
    assert given[0] == (pytest.approx(95, abs=10), True)
    assert given[1] == (pytest.approx(95 * 4 / 11, abs=10), False)
    # The results before the exception are on disk.
    left = json.loads((results / "dry-run-tests.json").read_text())
    assert (left["found"], left["right"], left["words"]) == (1, None, "not finished")
    signal.signal(signal.SIGTERM, terminates)


def test_sanitizers_meet_every_kernel_early() -> None:
    work = small._work(Device(True), 3)
    kernels = [(case.name, str(case.arguments), strategy.name) for _, _, case, strategy in work]
    assert len(set(kernels[: len(set(kernels))])) == len(set(kernels))
    assert work == small._work(Device(True), 3)
    assert work != small._work(Device(True), 4)


def test_a_case_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the measurements, and the failures as well."""
    measure_case = benchmark.measure_case

    def fails_once(case: Case, *rest: Any) -> None:
        if case.name == "focal":
            raise RuntimeError("no truth")
        measure_case(case, *rest)

    def stays() -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(benchmark, "measure_case", fails_once)
    options = SimpleNamespace(
        dry_run=True, full=False, quick=False, triton=True, seed=1, seconds=1e9, json=tmp_path / "bench.json"
    )
    run = benchmark.Run(options)
    run.cases = run.cases[:3]
    run.bandwidth = {name: {"kernel": "", "bytes_per_second": 1e9} for name in ("copy", "read")}
    run._group(dry_groups()[0])
    results = json.loads(options.json.read_text())
    assert results["failures"] == ["6 x 1,001, bfloat16, focal: RuntimeError: no truth"]
    assert {entry["case"] for entry in results["times"] if entry["ms"]} == {run.cases[0].name, run.cases[2].name}
    # An error that stays is raised after the results are written.
    monkeypatch.setattr(run.device, "synchronize", stays)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run._group(dry_groups()[1])
    # A strategy that was not the planned one is a failure.
    (first, *_) = (timed for timed in run.times if timed.ours)
    first.ran = "another"
    assert any(f"planned {first.strategy}, ran another" in failure for failure in run.failures())


def options_of(*given: str) -> Any:
    return command._arguments(list(given))


def test_two_visits_fit_fifteen_minutes() -> None:
    """The machine's start, a gap between the commands and the transfers count too."""
    limits = [options_of("--visit", name).limit for name in ("right", "fast")]
    assert sum(limits) + 120 + 30 + 30 <= 900
    for name in ("right", "fast"):
        options = options_of("--visit", name)
        assert options.no_build
        assert not options.triton
        # An explicit limit takes precedence.
        assert options_of("--visit", name, "--limit", "99").limit == 99
    assert options_of().part == list(command._PARTS)
    # Failed tests run again in one process, so that a broken context identifies its test.
    again = options_of("--test", "tests/test_edges.py::test")
    assert again.part == ["tests"]
    asked = command._suite(again, first=False)
    assert asked.files() == ["tests/test_edges.py::test"]
    assert "xdist" not in asked.options("cuda")
    assert asked.backends() == ("cuda",)


def test_a_visit_compiles_nothing() -> None:
    asked = command._suite(options_of("--visit", "right"), first=False)
    assert asked.backends() == ("cuda",)
    given = asked.options("cuda")
    assert "--brief=40" in given  # leaves out tests that call a compiler
    assert given[given.index("-n") + 1] == "10" if find_spec("xdist") else "-n" not in given
    asked_of_bench = command._bench_options(options_of("--visit", "fast"))
    assert {"--quick", "--no-compile", "--no-triton"} <= set(asked_of_bench)
    assert not any(group.names for group in quick_groups())


def test_tests_of_huge_tensors_run_by_one_process(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parallel they need more memory than a GPU has."""
    given = command._suite(options_of(), first=False).options("cuda")
    assert given[given.index("-m") + 1] == "not large"
    started = []

    class Recorded:
        def __init__(self, name: str, line: list[str], *rest: Any) -> None:
            started.append(line)

        def wait(self) -> processes.Ended:
            logs.mkdir(exist_ok=True)
            (logs / "large.log").write_text("")
            return processes.Ended(0, logs / "large.log", 1.0)

    monkeypatch.setattr(suite, "Started", Recorded)
    suite.large(False, 10.0, few=True)
    (line,) = started
    assert line[line.index("-m", 3) + 1] == "large"
    assert line[line.index("-k") + 1] == "test_rows and (team or split)"
    assert "xdist" not in line


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A process that waits for a GPU's memory gets it when the process that holds it ends."""
    code = """
import sys, time
from tests.alone import one_at_a_time
with one_at_a_time("test-of-the-lock"):
    print("in", flush=True)
    sys.stdin.read()
"""
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "in\n"
    second = start()
    assert second.stdout is not None
    os.set_blocking(second.stdout.fileno(), False)
    time.sleep(0.2)
    assert not second.stdout.readline()
    first.kill()
    os.set_blocking(second.stdout.fileno(), True)
    assert second.stdout.readline() == "in\n"
    second.communicate("")
    first.communicate()


def test_tests_of_huge_tensors_are_few() -> None:
    """There is one test for each strategy, and one of an element-wise loss: each moves a GPU's memory several times."""
    found = {name: marks for name, value in vars(test_cuda).items() if (marks := _marks(value)) and "large" in marks}
    assert set(found) == {"test_rows_past_31_bits", "test_elements_past_31_bits"}
    assert not any("parametrize" in marks for marks in found.values())
    assert "element_wise" in found["test_elements_past_31_bits"]  # runs by the first strategy alone
    assert set(test_cuda.PAST_31_BITS) == set(STRATEGIES)
    assert set(suite._LARGE) <= set(STRATEGIES)


def _marks(function: Any) -> set[str]:
    return {mark.name for mark in getattr(function, "pytestmark", ())} if callable(function) else set()


def test_narrowed_groups() -> None:
    assert narrowed(default_groups()) == default_groups()
    one = narrowed(default_groups(), ("zlpr",), (MAIN_LABELS,), compiled=False)
    assert {group.dtype for group in one} == {"bfloat16", "float32", "float16"}
    assert all(group.labels == MAIN_LABELS and group.losses == ("zlpr",) for group in one)
    assert not any("compile" in peer for group in one for peer in group.names)
    assert [group.losses for group in narrowed(quick_groups(), ("dice", "bce"))] == [("dice", "bce"), *[("bce",)] * 5]
    with pytest.raises(ValueError, match="nothing to measure"):
        narrowed(quick_groups(), ("dice",), (8_192,))
    with pytest.raises(SystemExit):
        benchmark._arguments(["--json", "x", "--losses", "zlpr,nonsense"])


def test_profile_reads_what_ncu_prints() -> None:
    """The sample has ncu's format; its figures are invented."""
    text = profile._SAMPLE.read_text()
    (streaming,), split = profile.read(text)
    assert streaming.name == "streaming"
    assert streaming.dram_bytes == 541_065_216 + 268_501_248
    assert streaming.seconds == pytest.approx(352.128e-6)
    assert (streaming.dram_percent, streaming.issue_percent, streaming.occupancy_percent) == (71.2, 48.77, 36.9)
    assert streaming.stall == "long scoreboard 6.8"  # neither "selected" nor the metrics that count twice
    assert [kernel.name for kernel in split] == ["row_statistics", "backward"]
    # Scaled units, and a missing figure.
    scaled = profile.read(text.replace('"541,065,216"', '"541.07"').replace('"byte","byte"', '"Mbyte","byte"'))
    assert scaled[0][0].dram_bytes == pytest.approx(541.07e6 + 268_501_248)
    missing = profile.read(text.replace('"541,065,216"', '"n/a"'))[0][0]
    assert (missing.dram_bytes, missing.issue_percent) == (None, 48.77)
    calls = [vars(profile.Profiled(name, "streaming", "csr", 1, 2, 2**29)) for name in ("zlpr", "dice")]
    lines = profile.table(profile.joined(calls, text)).splitlines()
    assert len(lines) == 6
    assert "1.51" in lines[2]  # times the plan's bytes
    with pytest.raises(ValueError, match="3 calls were made, and ncu saw 2"):
        profile.joined([*calls, calls[0]], text)
    with pytest.raises(ValueError, match="no table"):
        profile.read("==ERROR== The user does not have permission to access NVIDIA GPU Performance Counters\n")


def test_profile_covers_every_strategy() -> None:
    for loss in ("zlpr", "dice"):
        assert {strategy for name, strategy, *_ in profile._CALLS if name == loss} == {
            "team",
            "split",
        }
    assert {name for name, *_ in profile._CALLS} == {"zlpr", "dice", "focal", "bce"}
    line = profile._command(False, Path("x"))
    assert line[line.index("--clock-control") + 1] == "none"


def test_capability_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    for said, status, expected in (("9.0\n9.0\n", 0, "90"), ("", 0, ""), ("NVIDIA-SMI has failed", 9, "")):
        done = subprocess.CompletedProcess([], status, said, "")
        monkeypatch.setattr(parts.subprocess, "run", lambda *a, done=done, **k: done)
        assert parts.capability() == expected


def test_sanitizers_run_one_after_another(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memcheck runs first; each tool's findings are saved before the next tool begins."""
    seen: list[str] = []

    class Tool:
        def __init__(self, name: str, line: list[str], seconds: float, environment: dict[str, str]) -> None:
            seen.append(f"start {name}")
            self.name = name

        def wait(self) -> processes.Ended:
            logs.mkdir(exist_ok=True)
            log = logs / f"{self.name}.log"
            log.write_text("ERROR SUMMARY: 0 errors\n4 of 9 cases, seed 1\n")
            return processes.Ended(0, log, 1.0)

    monkeypatch.setattr(parts, "Started", Tool)
    monkeypatch.setattr(parts.shutil, "which", lambda name: "/usr/bin/compute-sanitizer")
    part = parts.sanitize(False, 60.0, lambda results: seen.append(f"saved {len(results)}"))
    assert seen == ["start memcheck", "saved 1", "start synccheck", "saved 2", "start racecheck", "saved 3"]
    assert part.right is True
