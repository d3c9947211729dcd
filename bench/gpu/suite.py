"""Parts of ``make gpu`` that run tests: the suite on CUDA and Triton, and tests of huge tensors one by one."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import processes
from .processes import ROOT, TIMED_OUT, Ended, Part, Started, how, verdict_of

__all__ = ["Suite", "large", "tests"]

Save = Callable[[dict[str, Any]], None]

_EARLY = ("strategies", "values", "edges", "cuda", "parts")  # the most informative files run first, if time runs out
_FIRST = 2  # the number of early files that show whether anything works
_CUDA_SHARE = 0.75  # CUDA's share of the time; Triton has the rest
_GRACE = 10.0  # seconds: pytest-xdist's workers end before it reports
_TRITON_BRIEF = 30  # Triton compiles a kernel at its first use: one test in 30 uses all specialisations
_LARGE = ("team", "split")  # strategies whose tests of huge tensors run when time is short
_NOTHING_RAN = 5  # pytest's exit status if no test ran
_DRY = ["tests/test_edges.py", "-k", "test_few_long_rows"]


@dataclass(frozen=True)
class Suite:
    """The tests that run, and the number of processes."""

    dry: bool = False
    first: bool = False  # only the first files, on CUDA: they find what is broken everywhere
    triton: bool = True
    brief: int | None = None  # run one in this number of the largest tests' combinations
    workers: int | None = None  # None: three for four cores
    only: tuple[str, ...] = ()  # run these tests alone, in one process that waits for each launch

    def files(self) -> list[str]:
        """Return pytest's arguments that name tests."""
        if self.dry:
            return _DRY
        if self.only:
            return list(self.only)
        early = [f"tests/test_{name}.py" for name in _EARLY]
        found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py"))
        files = [*early, *(path for path in found if path not in early)]
        return files[:_FIRST] if self.first else files

    def backends(self) -> tuple[str, ...]:
        """Return the backends that are tested, one after the other."""
        more = ("triton",) if self.triton and not self.first and not self.only and find_spec("triton") else ()
        # Triton is tested before the benchmark, which then finds its kernels compiled.
        return ("cpu",) if self.dry else ("cuda", *more)

    def options(self, backend: str) -> list[str]:
        """Return pytest's arguments that name no test."""
        if backend == "cpu":
            return []
        # Warnings are shown; on a GPU they fail no test.
        options = ["--maxfail=200", "-W", "default"]
        if self.only:
            return options
        brief = _TRITON_BRIEF if backend == "triton" else self.brief
        options += ["-m", "not large", *([f"--brief={brief}"] if brief else [])]
        if find_spec("xdist"):
            # One by one, so that the order is kept; with groups, xdist would repeat a test that ended a worker.
            workers = self.workers or max(1, 3 * (os.cpu_count() or 1) // 4)
            options += ["-p", "xdist", "-n", str(workers), "--dist", "load", "--maxschedchunk", "1"]
        return options


def _counts(report: Path) -> dict[str, int]:
    """Return the numbers of tests; nothing if the run was killed before it reported."""
    if not report.exists():
        return {}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def failed_in(failures: Path) -> list[str]:
    """Return the tests that a file of ``--failures`` names."""
    lines = failures.read_text(errors="replace").splitlines() if failures.exists() else []
    return [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED ")]


def _start(name: str, backend: str, arguments: Sequence[str], seconds: float, seed: str, **more: str) -> Started:
    # Plugins that happen to be installed stay out; all workers have one seed.
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MLLOSS_TEST_SEED": seed, "OMP_NUM_THREADS": "2", **more}
    if backend != "cpu":
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    reports = [f"--junitxml={processes.LOGS / name}.xml", f"--failures={processes.LOGS / name}-failures.txt"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *reports, "--backend", backend]
    return Started(name, [*command, *arguments], seconds, environment, _GRACE)


def ended_tests(name: str, ended: Ended) -> tuple[bool | None, str, dict[str, Any]]:
    """Return the verdict, its words, and the entry for the results."""
    counts = _counts(processes.LOGS / f"{name}.xml")
    failed = failed_in(processes.LOGS / f"{name}-failures.txt")
    if ended.status:
        print(ended.tail())
    wrong = len(failed)
    passed = f"{counts['tests'] - counts['failures'] - counts['errors'] - counts['skipped']} passed, " if counts else ""
    words = f"{passed}{wrong} failed" + (f", {counts['skipped']} skipped" if counts else "")
    if ended.status and not wrong:
        words = f"{how(ended.status)}, {passed}no failure so far"
    elif ended.status not in (0, 1):
        words += f"; {how(ended.status)}"
    right = None if ended.status == TIMED_OUT and not wrong else ended.status == 0
    return right, words, {"status": ended.status, **counts, "failed": failed}


def tests(suite: Suite, seconds: float, save: Save) -> Part:
    """Run the test suite on CUDA, with all strategies, then a share on Triton; in a dry run a few tests on the CPU."""
    start, seed = time.monotonic(), str(secrets.randbelow(2**31))
    results: dict[str, Any] = {"seed": int(seed)}
    verdicts, words = [], []
    backends = suite.backends()
    blocking = {"CUDA_LAUNCH_BLOCKING": "1"} if suite.only else {}
    for backend in backends:
        left = start + seconds - time.monotonic()
        share = 1.0 if backend == backends[-1] else _CUDA_SHARE
        arguments, name = [*suite.options(backend), *suite.files()], f"tests-{backend}"
        right, outcome, results[backend] = ended_tests(
            name, _start(name, backend, arguments, left * share, seed, **blocking).wait()
        )
        verdicts.append(right)
        words.append(f"{backend}: {outcome}")
        save(results)
    part = "first" if suite.first else "tests"
    return Part(part, verdict_of(verdicts), "; ".join(words), time.monotonic() - start, results)


def large(dry: bool, seconds: float, few: bool) -> Part:
    """Run tests of tensors past 2^31 elements, one at a time: each takes a large part of a GPU's memory.

    ``few``: two tests of rows, by the strategies that the planner chooses. In a dry run pytest finds no test to run.
    """
    backend, name = "cpu" if dry else "cuda", "large"
    arguments = [
        "tests/test_cuda.py",
        "-m",
        "large",
        *(["-k", f"test_rows and ({' or '.join(_LARGE)})"] if few else []),
    ]
    seed = str(secrets.randbelow(2**31))
    ended = _start(name, backend, arguments, seconds, seed).wait()
    if dry:
        none = ended.status == _NOTHING_RAN
        return Part(name, none, "none without a GPU" if none else how(ended.status), ended.seconds)
    right, words, results = ended_tests(name, ended)
    return Part(name, right, words, ended.seconds, {"seed": int(seed), **results})
