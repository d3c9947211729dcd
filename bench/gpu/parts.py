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
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

__all__ = [
    "ROOT",
    "Part",
    "bench",
    "build",
    "capability",
    "clear",
    "end_all",
    "keep_logs",
    "sanitize",
    "tests",
    "unusable",
]

ROOT = Path(__file__).resolve().parents[2]
_LOGS = ROOT / "build" / "gpu"
_FOUND_ERRORS = 9  # compute-sanitizer's exit status for errors, as asked for below
_TIMED_OUT = 124


@dataclass
class Part:
    """How a part went: right or not, None if somebody has to look; in words, and what its JSON holds beside that."""

    name: str
    right: bool | None
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
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class _Started:
    """A process whose output goes to a log; interrupted ``grace`` seconds before its time is over."""

    running: ClassVar[list[_Started]] = []

    def __init__(
        self, name: str, command: Sequence[str], seconds: float, environment: dict[str, str], grace: float = 5.0
    ) -> None:
        _LOGS.mkdir(parents=True, exist_ok=True)
        self.log, self.start = _LOGS / f"{name}.log", time.monotonic()
        self.grace = min(grace, seconds / 4)
        self.limit = seconds - self.grace
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(**environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(self)

    def wait(self) -> _Ended:
        """Until it ends, or its time does."""
        try:
            status = self.process.wait(max(1.0, self.start + self.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = _TIMED_OUT
            self._interrupt()
        finally:
            self.end()
        return _Ended(status, self.log, time.monotonic() - self.start)

    def _interrupt(self) -> None:
        """As from a keyboard: pytest then reports what it has."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)

    def end(self) -> None:
        """It and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.running.remove(self)


def end_all() -> None:
    """What is still running: a session of its own does not end with this one."""
    for started in list(_Started.running):
        started.end()


def clear() -> None:
    """No logs of an earlier run."""
    shutil.rmtree(_LOGS, ignore_errors=True)


def keep_logs(folder: Path) -> None:
    """The logs and reports of every part, as one file."""
    with tarfile.open(folder / "logs.tar.gz", "w:gz") as archive:
        if _LOGS.exists():
            archive.add(_LOGS, "logs")


def _how(status: int) -> str:
    return "out of time" if status == _TIMED_OUT else f"exit status {status}"


# ---- build ----


def _ask(code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: what is imported before the build would stay."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )


def unusable() -> str:
    """Why the libraries that are there do not serve; empty if they do."""
    asked = _ask("import mlloss_cuda; print('cuda:', mlloss_cuda.backends()['cuda'].reason)")
    said = (asked.stderr if asked.returncode else asked.stdout).strip().splitlines() or ["no message"]
    return said[-1].removeprefix("cuda:").strip()


def capability() -> str:
    """The GPU's architecture as torch names it, ``"90"``; empty where torch sees no GPU."""
    asked = _ask(
        "import torch\nif torch.cuda.is_available(): print('gpu', *torch.cuda.get_device_capability(), sep='')"
    )
    if asked.returncode:
        raise SystemExit(f"make gpu: {sys.executable} does not import torch:\n{asked.stderr.strip()[-500:]}")
    names = [line.removeprefix("gpu") for line in asked.stdout.splitlines() if line.startswith("gpu")]
    return names[0] if names else ""


def build(architecture: str, seconds: float) -> Part:
    """The libraries, in place, for one architecture: nothing is installed. Without one, as ``make build`` has them."""
    environment = {"CUDAARCHS": f"{architecture}-real"} if architecture else {}
    ended = _Started("build", [sys.executable, "setup.py", "build_ext", "--inplace"], seconds, environment).wait()
    if ended.status:
        print(ended.tail(40))
        return Part("build", False, f"{_how(ended.status)}, see {ended.log.relative_to(ROOT)}", ended.seconds)
    return Part("build", True, f"for sm_{architecture}" if architecture else "as make build has it", ended.seconds)


# ---- tests ----

_TELLING = ("strategies", "values", "edges", "cuda", "parts")  # first, since time may run out
_FIRST = 2  # of these, for a look at whether anything works
_CUDA_SHARE = 0.75  # of the time; Triton's is the rest
_GRACE = 40.0  # pytest-xdist's workers end before it reports


def _test_files() -> list[str]:
    telling = [f"tests/test_{name}.py" for name in _TELLING]
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py"))
    return [*telling, *(path for path in found if path not in telling)]


def _counts(report: Path) -> dict[str, int]:
    """Empty if a killed run has left none."""
    if not report.exists():
        return {}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def _failed(failures: Path) -> list[str]:
    lines = failures.read_text(errors="replace").splitlines() if failures.exists() else []
    return [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED ")]


def _start_tests(backend: str, files: Sequence[str], seconds: float, seed: str) -> _Started:
    # No plugin that happens to be installed; one seed for all workers.
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MLLOSS_TEST_SEED": seed, "OMP_NUM_THREADS": "2"}
    name = f"tests-{backend}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [
        f"--junitxml={_LOGS / name}.xml",
        f"--failures={_LOGS / name}-failures.txt",
        "--backend",
        backend,
        *files,
    ]
    if backend != "cpu":
        # A warning is shown; it fails no test, as it does on a CPU.
        command += ["--maxfail=200", "-W", "default"]
        # Each specialisation of a Triton kernel is compiled when it is first met: a share of the tests meets all.
        command += ["--brief=30"] if backend == "triton" else []
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        if find_spec("xdist"):
            # One by one, so that the order is kept. By groups, xdist would repeat a test that ended a worker.
            workers = str(max(1, 3 * (os.cpu_count() or 1) // 4))
            command += ["-p", "xdist", "-n", workers, "--dist", "load", "--maxschedchunk", "1"]
    return _Started(name, command, seconds, environment, _GRACE)


def _ended_tests(backend: str, ended: _Ended) -> tuple[bool | None, str, dict[str, Any]]:
    name = f"tests-{backend}"
    counts, failed = _counts(_LOGS / f"{name}.xml"), _failed(_LOGS / f"{name}-failures.txt")
    if ended.status:
        print(ended.tail())
    wrong = len(failed)
    passed = f"{counts['tests'] - counts['failures'] - counts['errors'] - counts['skipped']} passed, " if counts else ""
    words = f"{passed}{wrong} failed" + (f", {counts['skipped']} skipped" if counts else "")
    if ended.status and not wrong:
        words = f"{_how(ended.status)}, {passed}no failure so far"
    elif ended.status not in (0, 1):
        words += f"; {_how(ended.status)}"
    right = None if ended.status == _TIMED_OUT and not wrong else ended.status == 0
    return right, words, {"status": ended.status, **counts, "failed": failed}


def _verdict(of: Sequence[bool | None]) -> bool | None:
    return False if False in of else None if None in of else True


def tests(dry: bool, seconds: float, first: bool) -> Part:
    """The test suite on CUDA, its strategies included, then a share on Triton; in a dry run a few tests on the CPU.

    ``first``: on CUDA alone, the files that find what is broken everywhere.
    """
    start, seed = time.monotonic(), str(secrets.randbelow(2**31))
    files = _test_files()[:_FIRST] if first else _test_files()
    if dry:
        files = ["tests/test_edges.py", "-k", "test_few_long_rows"]
    # The sanitizers and the benchmark find Triton's kernels compiled.
    more = ("triton",) if find_spec("triton") and not first else ()
    backends = ("cpu",) if dry else ("cuda", *more)
    results: dict[str, Any] = {"seed": int(seed)}
    verdicts, words = [], []
    for backend in backends:
        left = start + seconds - time.monotonic()
        share = 1.0 if backend == backends[-1] else _CUDA_SHARE
        ended = _start_tests(backend, files, left * share, seed).wait()
        right, how, results[backend] = _ended_tests(backend, ended)
        verdicts.append(right)
        words.append(f"{backend}: {how}")
    name = "first" if first else "tests"
    return Part(name, _verdict(verdicts), "; ".join(words), time.monotonic() - start, results)


# ---- sanitizers ----

_TOOLS = ("memcheck", "synccheck", "racecheck")
_UNSURE = "racecheck"  # takes clusters' distributed shared memory for races: its findings are to be looked at


def _sanitizer(tool: str) -> list[str]:
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS)),
        *("--kernel-name", "kns=mlloss"),  # the CUDA kernels: torch's own are not in question
        *("--print-limit", "20", "--target-processes", "application-only"),
    ]


def _last_line(log: Path, words: str) -> str:
    """With these words: "ERROR SUMMARY: 0 errors"."""
    found = [line for line in log.read_text(errors="replace").splitlines() if words in line]
    return found[-1].strip("= ").strip() if found else ""


def _ended_tool(tool: str, ended: _Ended) -> tuple[bool | None, str, dict[str, Any]]:
    summary, cases = _last_line(ended.log, "SUMMARY:"), _last_line(ended.log, " cases")
    # A tool that could not watch the program has no summary, or an exit status of its own.
    clean = ended.status == 0 and bool(summary)
    if not clean:
        print(ended.tail(60 if tool == _UNSURE else 25))
    how = "clean" if clean else summary or _how(ended.status)
    right = clean or (None if tool == _UNSURE or ended.status == _TIMED_OUT else False)
    result = {"status": ended.status, "clean": clean, "summary": summary, "cases": cases, "seconds": ended.seconds}
    return right, f"{tool} {how}" + (f", {cases}" if cases else ""), result


def sanitize(dry: bool, seconds: float) -> Part:
    """Small shapes under the tools, side by side; in a dry run the shapes without the tools."""
    # The tools need time to report; the same order for each.
    limits = ["--seconds", str(round(max(seconds - 30, seconds / 2))), "--seed", str(secrets.randbelow(2**31))]
    small = [sys.executable, "-m", "bench.gpu.small", *limits]
    # An allocation of its own for each tensor, or an access past one's end lands in the next.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if dry:
        ended = _Started("small", [*small, "--dry-run"], seconds, {}).wait()
        words = "ran without the tools" if ended.status == 0 else _how(ended.status)
        return Part("sanitize", ended.status == 0, words, ended.seconds)
    if shutil.which("compute-sanitizer") is None:
        return Part("sanitize", False, "compute-sanitizer is not on the PATH", 0.0)
    running = {tool: _Started(tool, [*_sanitizer(tool), *small], seconds, alone) for tool in _TOOLS}
    ended_tools = {tool: started.wait() for tool, started in running.items()}
    found = {tool: _ended_tool(tool, ended) for tool, ended in ended_tools.items()}
    results = {tool: result for tool, (_, _, result) in found.items()}
    verdict, words = _verdict([right for right, _, _ in found.values()]), "; ".join(how for _, how, _ in found.values())
    return Part("sanitize", verdict, words, max(e.seconds for e in ended_tools.values()), results)


# ---- benchmark ----


def bench(dry: bool, full: bool, seconds: float, path: Path) -> Part:
    """The benchmark, which writes ``path`` as it goes, and stops itself at the end of a case."""
    stop = str(round(max(seconds - 45, seconds / 2)))
    command = [sys.executable, "-m", "bench.gpu.benchmark", "--json", str(path), "--seconds", stop]
    command += ["--dry-run"] if dry else ["--full"] if full else []
    path.unlink(missing_ok=True)  # of an earlier run
    ended = _Started("bench", command, seconds, {}).wait()
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
