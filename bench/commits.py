"""``python -m bench.commits BEFORE [AFTER]``: two commits side by side, forward + backward on the CPU.

Each commit is built in a folder of its own, for this machine's instruction set, and runs in a process of its own. The
two are timed in turn, so that other load on the machine hits both alike. AFTER is the working tree unless it is named.
Times are the least of all turns of several pairs of processes, since some processes are slow from start to end. A ratio
above 1 means that AFTER is faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from . import keep_memory
from .implementations import Implementation, Problem, all_cases, build
from .markdown import head_lines, row_line
from .measure import clocked, meets_new_memory

__all__ = ["compared", "main"]

_TREE = Path(__file__).resolve().parents[1]
_LOSSES = ("zlpr", "bce", "dice", "focal", "asymmetric", "symmetric_kl", "zlpr+focal+dice")
_NAMES = {"dense": "fused", "csr": "csr"}


class _Commit:
    """A process that runs one commit's package for one case: memory that an earlier case leaves would show in times."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(_TREE)!r})\n" + _SERVE, str(folder)]
        self.process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def request(self, **content: Any) -> Any:
        """Send a request, and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a commit ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


# The package is the commit's; the benchmark is this tree's.
_SERVE = """
sys.path.insert(0, sys.argv[1])
import mlloss_cuda
del sys.path[0]
from bench.commits import serve
serve()
"""


def serve() -> None:
    """Answer requests from standard input: prepare a case, or run an implementation of it."""
    keep_memory()
    cases = {case.name: case for case in all_cases()}
    runs: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            torch.set_num_threads(request["threads"])
            problem = Problem(request["rows"], request["labels"], getattr(torch, request["dtype"]), "cpu", seed=1)
            names = ("copy", request["name"])
            runs = {c.name: (c, problem) for c in build(cases[request["case"]], problem, names)}
            for run in runs.values():
                _warm(*run)
            print("{}", flush=True)
        else:
            print(json.dumps(_warm(*runs[request["run"]])), flush=True)


def _warm(implementation: Implementation, problem: Problem) -> float:
    """Run for a tenth of a second, or a second while most runs meet new memory, and return the least milliseconds.

    A core that was idle begins at half of its speed.
    """
    begin, least, clean = time.monotonic(), math.inf, 0
    while (seconds := time.monotonic() - begin) < 0.1 or (clean < 3 and seconds < 1.0):
        ms, faults = clocked(implementation, problem)
        clean += not meets_new_memory(faults)
        least = min(least, ms)
    return least


def _built(commit: str) -> Path:
    """Return the folder of a commit, built; later runs find it there."""
    found = subprocess.run(["git", "rev-parse", "--short=12", commit], cwd=_TREE, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"no commit is called {commit!r} here")
    folder = _TREE / "build" / "commits" / found.stdout.strip()
    done = folder / "build" / ".built"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "archive", found.stdout.strip()], cwd=_TREE, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
        print(f"building {commit}", file=sys.stderr, flush=True)
        tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment = {**os.environ, **tools, "CMAKE_ARGS": "-DMLLOSS_CUDA=OFF -DMLLOSS_NATIVE=ON"}
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
        done.touch()
    return folder


def _turns(folders: tuple[Path, Path], name: str, rounds: int, **what: Any) -> Iterator[tuple[float, float, float]]:
    """Yield the milliseconds of one commit, of the other and of a copy, turn by turn."""
    commits = (_Commit(folders[0]), _Commit(folders[1]))
    for commit in commits:
        commit.request(name=name, **what)
    for turn in range(rounds):
        ms = {i: commits[i].request(run=name) for i in ((0, 1) if turn % 2 else (1, 0))}
        yield ms[0], ms[1], commits[turn % 2].request(run="copy")
    for commit in commits:
        commit.end()


def compared(folders: tuple[Path, Path], processes: int, rounds: int, **what: Any) -> tuple[float, float, float]:
    """Return the ratio, and each commit's time in copies of the logits."""
    turns = [turn for _ in range(processes) for turn in _turns(folders, rounds=rounds, **what)]
    before, after, copy = (min(ms) for ms in zip(*turns, strict=True))
    return before / after, before / copy, after / copy


def _requests(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for shape in given.shape:
        rows, labels = (int(part) for part in shape.split("x"))
        for dtype in given.dtype:
            for targets in given.targets:
                for loss in given.loss:
                    layout = "fused" if loss == "symmetric_kl" else _NAMES[targets]
                    yield {"case": loss, "rows": rows, "labels": labels, "dtype": dtype, "name": layout}


def main(arguments: list[str] | None = None) -> int:
    """Build the commits that are not built, compare, and print a line for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.commits", description=__doc__)
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER", nargs="?")
    parser.add_argument("--loss", nargs="+", default=_LOSSES)
    parser.add_argument("--shape", nargs="+", default=["64x131072"], metavar="BxL")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--targets", nargs="+", default=["csr"], choices=_NAMES)
    parser.add_argument("--processes", type=int, default=3, help="pairs of processes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pair")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    given = parser.parse_args(arguments)
    folders = (_built(given.before), _built(given.after) if given.after else _TREE)
    print(head_lines(("case", "times as fast", "copies before", "copies after")))
    for request in _requests(given):
        ratio, before, after = compared(folders, given.processes, rounds=given.rounds, threads=given.threads, **request)
        title = "{case} {rows}x{labels} {dtype} {name}".format(**request)
        print(row_line((title, *(f"{number:.2f}" for number in (ratio, before, after)))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
