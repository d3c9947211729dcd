"""The parts of ``make gpu``, each a process of its own with a time limit: build, tests, sanitizers, benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

__all__ = ["ROOT", "Part", "bench", "build", "capability", "sanitize", "tests"]

ROOT = Path(__file__).resolve().parents[2]
_LOGS = ROOT / "build" / "gpu"
_FOUND_ERRORS = 9  # compute-sanitizer's exit status for errors, as asked for below
_TIMED_OUT = 124


@dataclass
class Part:
    """How a part went: right or not, in words, and what its JSON holds beside that."""

    name: str
    right: bool
    words: str
    seconds: float
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Ended:
    status: int
    log: Path
    seconds: float

    def tail(self, lines: int = 25) -> str:
        """The end of what was printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _environment(**more: str) -> dict[str, str]:
    # The repository's own package, whatever is installed.
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


class _Started:
    """A process whose output goes to a log."""

    def __init__(self, name: str, command: Sequence[str], seconds: float, **environment: str) -> None:
        _LOGS.mkdir(parents=True, exist_ok=True)
        self.log, self.start, self.limit = _LOGS / f"{name}.log", time.monotonic(), seconds
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(**environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> _Ended:
        """Until it ends, or its time does."""
        try:
            status = self.process.wait(max(1.0, self.start + self.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = _TIMED_OUT
            self._interrupt()
        finally:
            self._end()
        return _Ended(status, self.log, time.monotonic() - self.start)

    def _interrupt(self) -> None:
        """As from a keyboard: pytest then reports what it has."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def _end(self) -> None:
        """It and the processes that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _how(status: int) -> str:
    return "out of time" if status == _TIMED_OUT else f"exit status {status}"


# ---- build ----


def capability() -> str:
    """The GPU's architecture as torch names it, ``"90"``; empty where torch sees no GPU."""
    code = "import torch\nif torch.cuda.is_available(): print('gpu', *torch.cuda.get_device_capability(), sep='')"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SystemExit(f"make gpu: {sys.executable} does not import torch:\n{asked.stderr.strip()[-500:]}")
    names = [line.removeprefix("gpu") for line in asked.stdout.splitlines() if line.startswith("gpu")]
    return names[0] if names else ""


def build(architecture: str, seconds: float) -> Part:
    """The libraries, in place, for one architecture: nothing is installed. Without one, as ``make build`` has them."""
    environment = {"CUDAARCHS": f"{architecture}-real"} if architecture else {}
    ended = _Started("build", [sys.executable, "setup.py", "build_ext", "--inplace"], seconds, **environment).wait()
    if ended.status:
        print(ended.tail(40))
        return Part("build", False, f"{_how(ended.status)}, see {ended.log.relative_to(ROOT)}", ended.seconds)
    return Part("build", True, f"for sm_{architecture}" if architecture else "as make build has it", ended.seconds)


# ---- tests ----


def _counts(report: Path) -> dict[str, int]:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    return {
        name: int(suite.get(name, 0)) if suite is not None else 0 for name in ("tests", "failures", "errors", "skipped")
    }


def _failed(report: Path) -> list[str]:
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in ElementTree.parse(report).getroot().iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]


def _start_tests(backend: str, dry: bool, seconds: float, seed: str) -> _Started:
    report = _LOGS / f"tests-{backend}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if dry:
        command += ["tests/test_edges.py", "-k", "test_few_long_rows"]
    else:
        # What torch warns of on a GPU is shown; it fails no test, as it does on a CPU.
        command += ["tests", "--backend", backend, "--maxfail=200", "-W", "default::UserWarning"]
        # Each specialisation of a Triton kernel is compiled when it is first met: a share of the tests meets all.
        command += ["--brief"] if backend == "triton" else []
    workers = min(8, (os.cpu_count() or 1) // 2)
    if not dry and workers > 1 and find_spec("xdist"):
        command += ["-p", "xdist", "-n", str(workers)]
    # No plugin that happens to be installed; one seed for all workers.
    return _Started(
        f"tests-{backend}",
        command,
        seconds,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        MLLOSS_TEST_SEED=seed,
        OMP_NUM_THREADS="2",
    )


def _ended_tests(backend: str, ended: _Ended) -> tuple[bool, str, dict[str, Any]]:
    report = _LOGS / f"tests-{backend}.xml"
    if ended.status:
        print(ended.tail())
    if not report.exists():
        return False, f"{_how(ended.status)}, no report", {"status": ended.status}
    counts, failed = _counts(report), _failed(report)
    wrong = counts["failures"] + counts["errors"]
    words = f"{counts['tests'] - wrong - counts['skipped']} passed, {wrong} failed, {counts['skipped']} skipped"
    if ended.status and not wrong:
        words += f"; {_how(ended.status)}"
    return ended.status == 0, words, {"status": ended.status, **counts, "failed": failed}


def tests(dry: bool, seconds: float) -> Part:
    """The test suite on CUDA, its strategies included, and beside it on Triton; in a dry run a few tests on the CPU."""
    seed = str(secrets.randbelow(2**31))
    # The sanitizers and the benchmark find Triton's kernels compiled.
    backends = ("cpu",) if dry else ("cuda", "triton") if find_spec("triton") else ("cuda",)
    started = {backend: _start_tests(backend, dry, seconds, seed) for backend in backends}
    results: dict[str, Any] = {"seed": int(seed)}
    right, words, longest = True, [], 0.0
    for backend, one in started.items():
        ended = one.wait()
        fine, how, results[backend] = _ended_tests(backend, ended)
        right, longest = right and fine, max(longest, ended.seconds)
        words.append(f"{backend}: {how}")
    return Part("tests", right, "; ".join(words), longest, results)


# ---- sanitizers ----

_TOOLS = ("memcheck", "racecheck")


def _sanitizer(tool: str) -> list[str]:
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS)),
        *("--kernel-name", "kns=mlloss"),  # the CUDA kernels: torch's own are not in question
        *("--print-limit", "20", "--target-processes", "application-only"),
    ]


def _summary_line(log: Path) -> str:
    """What the tool says last: "ERROR SUMMARY: 0 errors"."""
    found = [line for line in log.read_text(errors="replace").splitlines() if "SUMMARY:" in line]
    return found[-1].strip("= ").strip() if found else ""


def sanitize(dry: bool, seconds: float) -> Part:
    """Small shapes under memcheck and racecheck, side by side; in a dry run the shapes without the tools."""
    small = [sys.executable, "-m", "bench.gpu.small"]
    # An allocation of its own for each tensor, or an access past one's end lands in the next.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if dry:
        ended = _Started("small", [*small, "--dry-run"], seconds).wait()
        words = "ran without the tools" if ended.status == 0 else _how(ended.status)
        return Part("sanitize", ended.status == 0, words, ended.seconds)
    if shutil.which("compute-sanitizer") is None:
        return Part("sanitize", False, "compute-sanitizer is not on the PATH", 0.0)
    running = {tool: _Started(tool, [*_sanitizer(tool), *small], seconds, **alone) for tool in _TOOLS}
    ended_tools = {tool: started.wait() for tool, started in running.items()}
    results: dict[str, Any] = {}
    words_of: list[str] = []
    for tool, ended in ended_tools.items():
        summary = _summary_line(ended.log)
        # A tool that could not watch the program has no summary, or an exit status of its own.
        clean = ended.status == 0 and bool(summary)
        results[tool] = {"status": ended.status, "clean": clean, "summary": summary, "seconds": ended.seconds}
        words_of.append(f"{tool} {'clean' if clean else _how(ended.status)}")
        if not clean:
            print(ended.tail())
    right = all(result["clean"] for result in results.values())
    return Part("sanitize", right, ", ".join(words_of), max(e.seconds for e in ended_tools.values()), results)


# ---- benchmark ----


def bench(dry: bool, full: bool, seconds: float, path: Path) -> Part:
    """The benchmark, which writes ``path`` as it goes."""
    command = [sys.executable, "-m", "bench.gpu.benchmark", "--json", str(path), "--seconds", str(round(seconds))]
    command += ["--dry-run"] if dry else ["--full"] if full else []
    path.unlink(missing_ok=True)  # of an earlier run
    ended = _Started("bench", command, seconds + 45).wait()
    print(ended.log.read_text(errors="replace"))
    if not path.exists():
        return Part("bench", False, _how(ended.status), ended.seconds)
    results = json.loads(path.read_text())
    met = sum(gate["passed"] for gate in results["gates"])
    words = (
        f"{met} of {len(results['gates'])} gates met" if not dry else f"{len(results['times'])} figures of no meaning"
    )
    if ended.status:
        words += f"; {_how(ended.status)}, {len(results['failures'])} wrong"
    return Part("bench", ended.status == 0, words, ended.seconds)
