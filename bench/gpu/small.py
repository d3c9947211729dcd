"""``python -m bench.gpu.small``: every kernel at small shapes, for the sanitizers."""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from ..implementations import Case, Problem, kernel_cases
from .device import Device
from .strategies import Strategy, forced, strategies

# One row of one chunk, odd widths that begin and end within a chunk, more than a tile, more rows than tiles. The last
# is so wide that blocks with wide targets need more shared memory than the default.
_SHAPES = ((1, 5), (3, 33), (5, 2_051), (2, 9_001))
_DTYPES = ("float32", "bfloat16", "float16", "float64")
# Targets that take the most memory beside logits of these widths, wider than the logits if any are.
_WIDE = {2: torch.float32, 4: torch.int64, 8: torch.int64}


def _cases() -> list[Case]:
    """Return every loss by every grouping that the CUDA engine has."""
    found = []
    for case in kernel_cases():
        several = len(case.groupings) > 1
        found += [replace(case, arguments={"average": name}) for name in case.groupings] if several else [case]
    return found


def _learnable(case: Case, problem: Problem, logits: torch.Tensor) -> None:
    """Run the sums over rows and over labels that learnable arguments need, with every side input."""
    dtype = torch.float64 if problem.dtype == torch.float64 else torch.float32

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype, device=problem.device)

    extra: dict[str, Any] = {
        "weight": ones(problem.labels),
        "sample_weight": ones(problem.rows),
        "label_smoothing": 0.1,
        "logit_scale": ones().requires_grad_(),
        "logit_bias": ones(problem.labels).requires_grad_(),
    }
    if case.name == "zlpr":
        extra["threshold"] = ones(problem.rows, 1).requires_grad_()
    case.function(logits, problem.dense, **case.arguments, **extra).backward()


def _call_pair(case: Case, problem: Problem) -> None:
    """Run a loss of two passes' logits: both gradients, weights of labels and rows, values of elements."""
    leaf, other = problem.leaf, problem.other
    weights = {"weight": torch.ones(problem.labels), "sample_weight": torch.ones(problem.rows)}
    dtype = torch.float64 if problem.dtype == torch.float64 else torch.float32
    case.function(leaf, other, **{name: w.to(problem.device, dtype) for name, w in weights.items()}).backward()
    each = case.function(leaf, other, reduction="none")
    each.backward(torch.ones_like(each))
    with torch.no_grad():
        case.fused(leaf, other)


def _call(case: Case, problem: Problem) -> None:
    """Run forward and backward by every path: formed, scaled, recomputed, in place, statistics alone."""
    leaf = problem.leaf
    dense = [problem.dense.to(dtype) for dtype in (torch.uint8, _WIDE[problem.dtype.itemsize])]
    for targets in (problem.dense, problem.csr, problem.floating * 0.75, *dense):
        value = case.fused(leaf, targets)
        value.backward(torch.full_like(value, 0.5))
    each = case.function(leaf, problem.csr, reduction="none", **case.arguments)
    each.backward(torch.ones_like(each))
    case.in_place(problem.fresh(True), problem.csr).backward()
    with torch.no_grad():
        case.fused(leaf, problem.dense)
    _learnable(case, problem, leaf)
    strided = problem.source.repeat_interleave(2, 1)[:, ::2].requires_grad_()
    case.fused(strided, problem.dense).backward()


_Work = tuple[tuple[int, int], str, Case, Strategy]  # shape, dtype, loss, launch


def _work(device: Device, seed: int) -> list[_Work]:
    """Return every loss, shape, dtype and strategy, shuffled; each kernel comes once before any comes twice."""
    found: list[_Work] = []
    for (rows, labels), dtype, case in itertools.product(_SHAPES, _DTYPES, _cases()):
        plans = strategies(labels, rows, dtype, case.element_wise, "step", device, triton=False)
        # Groupings other than rows always take the split strategy.
        once = case.arguments.get("average", "samples") != "samples"
        found += [((rows, labels), dtype, case, plan) for plan in (plans[:1] if once else plans)]
    random.Random(seed).shuffle(found)
    met: Counter[tuple[str, ...]] = Counter()

    def turn(work: _Work) -> int:
        _, _, case, strategy = work
        kernel = (case.name, str(case.arguments), strategy.name)
        met[kernel] += 1
        return met[kernel]

    return sorted(found, key=turn)


def main(given: list[str] | None = None) -> int:
    """Run everything once; the sanitizer that watches reports errors."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.small", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no case begins after this time")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="seed of the order; default: a new one"
    )
    options = parser.parse_args(given)
    device, calls = Device(options.dry_run), 0
    work = _work(device, options.seed)
    for (rows, labels), dtype, case, strategy in work:
        if time.monotonic() - start > options.seconds:
            break
        problem = Problem(rows, labels, getattr(torch, dtype), device.type, rows * labels, positives=3)
        with forced(strategy):
            (_call if case.takes_targets else _call_pair)(case, problem)
        device.synchronize()
        calls += 1
    print(f"{calls} of {len(work)} cases, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
