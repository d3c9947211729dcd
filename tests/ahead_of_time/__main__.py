"""``python -m tests.ahead_of_time``: the Triton kernels, compiled for GPUs that are not there.

Fails on what does not compile, on spilled registers, on a kernel that no call needs, and where rows of odd
length are not moved 16 bytes at a time. Not in a process that interprets: Triton is one or the other.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import triton

from .calls import LONG
from .compile import TARGETS, WHOLLY, Compiled, compile_target

MOVERS = ("backward", "element_wise", "streaming")  # kernels that read logits and write a gradient


def _faults(target: str, compiled: list[Compiled]) -> list[str]:
    from mlloss_cuda._triton import kernels

    faults = [f"{c.kernel} ({c.call}): {c.spills} spills" for c in compiled if c.spills]
    missing = {name for name in kernels.__all__ if name.islower()} - {c.kernel for c in compiled}
    if target in WHOLLY and missing:
        faults.append(f"no call needs {', '.join(sorted(missing))}")
    for c in compiled:
        moves = c.kernel in MOVERS and f"{LONG[0]} x {LONG[1]}, bfloat16" in c.call
        # What scale and bias are learned with forms its gradient in the backward.
        stores = c.wide_stores or (c.kernel != "backward" and "logit_scale" in c.call)
        if moves and not (c.wide_loads and stores):
            faults.append(f"{c.kernel} ({c.call}): no accesses of 16 bytes")
    return [f"{target}: {fault}" for fault in faults]


def main(arguments: list[str] | None = None) -> int:
    """Compile, print a line a target and kernel, then what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.ahead_of_time", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--triton", metavar="VERSION", help="fail if another version of Triton would compile")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    given = parser.parse_args(arguments)
    if given.triton not in (None, triton.__version__):
        parser.error(f"Triton {given.triton} was asked for, and {triton.__version__} is imported")
    print(f"Triton {triton.__version__}", flush=True)
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {sorted(unknown)[0]!r}")
    # The longest first.
    targets = sorted(given.targets or TARGETS, key=lambda name: name not in WHOLLY)
    faults = []
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for target, (compiled, seconds) in zip(targets, pool.map(compile_target, targets), strict=True):
            print(f"{target}: {len(compiled)} compiled in {seconds:.0f} s", flush=True)
            for kernel in sorted({c.kernel for c in compiled}):
                most = max(c.registers for c in compiled if c.kernel == kernel)
                print(f"  {kernel:17} {sum(c.kernel == kernel for c in compiled):3}, at most {most} registers")
            faults += _faults(target, compiled)
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
