"""``python -m tests.ahead_of_time`` compiles the Triton kernels for GPUs that are not present.

It fails if a kernel does not compile, spills registers, is needed by no call, or does not move rows of odd length
16 bytes at a time. The kernels of a target are compiled in pieces, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from .calls import LONG
from .compile import ALL_CALLS, TARGETS, Compiled

MOVERS = ("backward", "element_wise", "streaming")  # kernels that read logits and write a gradient


def _faults(target: str, whole: bool, compiled: Iterable[Compiled]) -> list[str]:
    from mlloss_cuda._triton import kernels

    faults = [f"{c.kernel} ({c.call}): {c.spills} spills" for c in compiled if c.spills]
    missing = {name for name in kernels.__all__ if name.islower()} - {c.kernel for c in compiled}
    if whole and missing:
        faults.append(f"no call needs {', '.join(sorted(missing))}")
    for c in compiled:
        moves = c.kernel in MOVERS and f"{LONG[0]} x {LONG[1]}, bfloat16" in c.call
        # With a learned scale or bias, only the backward kernel stores a gradient.
        stores = c.wide_stores or (c.kernel != "backward" and "logit_scale" in c.call)
        if moves and not (c.wide_loads and stores):
            faults.append(f"{c.kernel} ({c.call}): no accesses of 16 bytes")
    return [f"{target}: {fault}" for fault in faults]


def _piece(target: str, folder: str, whole: bool, piece: int, pieces: int) -> dict[str, Any]:
    """Compile one piece of a target in a new process, by the Triton in ``folder`` if there is one.

    ``whole``: all calls; otherwise the main ones.
    """
    paths = {"PYTHONPATH": folder} if folder else {}
    cache = f"{folder}-cache" if folder else "build/triton"
    words = [target, str(int(whole)), str(piece), str(pieces), folder]
    command = [sys.executable, "-m", "tests.ahead_of_time.compile", *words]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(Path(cache).resolve()), **paths}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target}: a kernel does not compile (exit status {done.returncode})")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _report(target: str, whole: bool, pieces: list[dict[str, Any]]) -> list[str]:
    """Print a line for each kernel, and return the faults."""
    compiled = {c["hash"]: Compiled(**c) for piece in pieces for c in piece["compiled"]}.values()
    print(f"{target} by Triton {pieces[0]['triton']}: {len(compiled)} kernels")
    for kernel in sorted({c.kernel for c in compiled}):
        most = max(c.registers for c in compiled if c.kernel == kernel)
        print(f"  {kernel:17} {sum(c.kernel == kernel for c in compiled):3}, at most {most} registers", flush=True)
    return _faults(target, whole, compiled)


def main(arguments: list[str] | None = None) -> int:
    """Compile the kernels, print a line for each target and kernel, then the faults; return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.ahead_of_time", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--also", metavar="FOLDER", help=f"a folder with another Triton, for {', '.join(ALL_CALLS)}")
    parser.add_argument("--brief", action="store_true", help="compile the main calls alone with Python's own Triton")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    given = parser.parse_args(arguments)
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {sorted(unknown)[0]!r}")
    both = bool(given.also)
    runs = [(target, "", target in ALL_CALLS and not (given.brief and both)) for target in given.targets or TARGETS]
    if both:
        runs = [*((target, given.also, True) for target in ALL_CALLS), *runs]
    faults = []
    with ThreadPoolExecutor(given.jobs) as pool:
        tasks = [pool.submit(_piece, *run, piece, given.jobs) for run, piece in product(runs, range(given.jobs))]
        for number, (target, _, whole) in enumerate(runs):
            pieces = tasks[number * given.jobs : (number + 1) * given.jobs]
            try:
                faults += _report(target, whole, [task.result() for task in pieces])
            except RuntimeError as error:
                faults.append(str(error))
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
