"""``python -m bench.linear``: a linear layer and its loss, forward + backward, on the CPU: time and memory.

Times are ratios to the three matrix products alone, of one run; memory is what a process of its own
needs beside input, weight, bias and targets. ``--big`` is one step at 2,812,281 labels, weights in bfloat16
stepped inside backward: 4.3 GB of weights.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import WARM, give_memory_back, keep_memory

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "products": "the matrix products alone",
    "ours": "mlloss_cuda.linear_loss",
    "unfused": "F.linear, then mlloss_cuda's loss",
    "eager": "F.linear, then the formula, eager",
    "compile": "the same, torch.compile",
}


@dataclass(frozen=True)
class Shape:
    """Sizes, dtype and loss of one table."""

    rows: int
    labels: int
    features: int
    dtype: str
    loss: str
    update: str | None = None  # "sgd": weights step inside backward

    def __str__(self) -> str:
        return f"{self.loss}, {self.rows} x {self.labels:,}, {self.features} features, {self.dtype}"


class Layer:
    """Random input, weight, bias and targets, and the ways to compute the loss."""

    def __init__(self, shape: Shape, device: str = "cpu") -> None:
        import torch

        import mlloss_cuda

        from .competitors import Problem, all_cases

        dtype = getattr(torch, shape.dtype)
        self.case = next(case for case in all_cases() if case.name == shape.loss)
        module = getattr(mlloss_cuda, {"bce": "BCEWithLogitsLoss", "zlpr": "ZLPRLoss"}[shape.loss])
        update = mlloss_cuda.FusedSGD(0.01) if shape.update else None
        self.head = mlloss_cuda.LinearLoss(
            shape.features, shape.labels, module(), device=device, dtype=dtype, fused_update=update
        )
        self.inputs = torch.randn(shape.rows, shape.features, device=device).to(dtype).requires_grad_()
        # Of a problem, the targets alone: its logits are not wanted.
        self.targets = Problem(shape.rows, 16, dtype, device, 0).csr
        width = shape.labels // 16
        columns = self.targets.col_indices * width
        self.targets = mlloss_cuda.CSRTargets(self.targets.crow_indices, columns, shape.labels)

    def fresh(self) -> None:
        """No gradients from before."""
        for leaf in (self.inputs, *self.head.parameters()):
            leaf.grad = None

    def ways(self, names: list[str]) -> dict[str, Callable[[], Any]]:
        """A forward and backward by each."""
        import torch
        import torch.nn.functional as F

        x, weight, bias = self.inputs, self.head.weight, self.head.bias
        dense = self.targets.to_dense() if {"eager", "compile"} & set(names) else None
        if dense is not None and self.case.name == "bce":
            dense = dense.float()
        published = self.case.published
        assert published is not None

        def formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return published(F.linear(x, weight, bias).float(), dense)

        compiled = torch.compile(formula, dynamic=False) if "compile" in names else formula

        @torch.no_grad()
        def products() -> None:
            logits = F.linear(x, weight, bias)
            _ = logits @ weight, logits.t() @ x

        ways: dict[str, Callable[[], Any]] = {
            "products": products,
            "ours": lambda: self.head(x, self.targets).backward(),
            "unfused": lambda: self.head.loss(F.linear(x, weight, bias), self.targets).backward(),
            "eager": lambda: formula(x, weight, bias).backward(),
            "compile": lambda: compiled(x, weight, bias).backward(),
        }
        return {name: ways[name] for name in names}


def _seconds(layer: Layer, way: Callable[[], Any]) -> float:
    layer.fresh()
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def time_of(shape: Shape, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in interleaved rounds, in an order drawn anew each round."""
    layer = Layer(shape)
    ways = layer.ways(names)
    for way in ways.values():
        _seconds(layer, way)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            samples[name].append(_seconds(layer, ways[name]))
    return samples


def _peak(shape: Shape, name: str) -> dict[str, float]:
    """Bytes at the worst moment of a step, beside what it is given; in this process."""
    from .measure import _status

    layer = Layer(shape)
    (way,) = layer.ways([name]).values()
    result = {"planned": float(layer.head.plan(shape.rows).peak_bytes)}
    for _ in range(1 if shape.labels > 1_000_000 else 2):  # the first grows thread stacks
        layer.fresh()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        way()
        result |= {"peak": float(_status("VmHWM") - before), "given": float(before)}
    return result


def peak_of(shape: Shape, name: str) -> dict[str, float] | None:
    """The same in a process whose allocator gives back what is freed; None where it cannot be known."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "bench.linear", "--child", json.dumps({**asdict(shape), "name": name})]
    finished = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError((finished.stderr.strip().splitlines() or ["no message"])[-1])
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def _print_table(shape: Shape, names: list[str], rounds: int) -> None:
    print(f"\n{shape}, reduction mean")
    samples = time_of(shape, names, rounds)
    medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
    print(f"{'':40} {'ms':>8} {'least':>8} {'products':>9} {'ours':>6} {'MiB':>8}")
    for name, median in medians.items():
        peak = None if name in ("products", "compile") else peak_of(shape, name)
        memory = f"{peak['peak'] / 2**20:8,.0f}" if peak else ""
        print(
            f"{NAMES[name]:40} {1e3 * median:8.0f} {1e3 * min(samples[name]):8.0f} "
            f"{median / medians['products']:8.2f}x {median / medians['ours']:5.2f}x {memory:>8}",
            flush=True,
        )


def _print_big(rows: int) -> None:
    for loss in ("bce", "zlpr"):
        shape = Shape(rows, 2_812_281, 768, "bfloat16", loss, "sgd")
        found = peak_of(shape, "ours")
        assert found is not None, "memory cannot be measured here"
        print(
            f"{shape}, plain SGD inside backward: peak {found['peak'] / 2**20:,.0f} MiB beside "
            f"{found['given'] / 2**30:.2f} GiB of weights and process (planned {found['planned'] / 2**20:,.0f})",
            flush=True,
        )


def main(given: list[str] | None = None) -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__)
    parser.add_argument("--big", action="store_true", help="2,812,281 labels: memory of a step")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no torch.compile: does it run?")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only this one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.child:
        give_memory_back()
        request = json.loads(options.child)
        name = request.pop("name")
        print(json.dumps(_peak(Shape(**request), name)))
        return 0
    if options.big:
        _print_big(128)
        return 0
    if keep_memory():
        print(WARM)
    names = [name for name in NAMES if not (name == "compile" and (options.no_compile or options.quick))]
    for dtype in [options.dtype] if options.dtype else ["float32", "bfloat16"]:
        for loss in ("bce", "zlpr"):
            shape = Shape(8, 1_003, 16, dtype, loss) if options.quick else Shape(128, 131_073, 768, dtype, loss)
            _print_table(shape, names, 2 if options.quick else options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
