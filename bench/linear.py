"""``python -m bench.linear``: a linear layer and its loss, forward + backward, on the CPU: time and memory.

Times are ratios to the three matrix products alone, of one run; memory is what a process of its own needs beyond input,
weight, bias and targets. ``--big`` is one step at 2,812,281 labels, with weights in bfloat16 that step inside backward:
4.3 GB of weights. ``bench.gpu`` measures the same layer on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import WARM, give_memory_back, keep_memory
from .markdown import mebibytes, ratio, table
from .plan import shape_of
from .samples import Sampled, rounds

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FUSED_UPDATE", "NAMES", "Layer", "LinearTime", "Shape", "linear_table"]

FUSED_UPDATE = "fused update"
NAMES = {
    "products": "the matrix products alone",
    "ours": "mlloss_cuda.linear_loss",
    FUSED_UPDATE: "mlloss_cuda.linear_loss, FusedSGD inside backward",
    "unfused": "F.linear, then mlloss_cuda's loss",
    "eager": "F.linear, then the formula, eager",
    "compile": "the same, torch.compile",
}
_CPU_NAMES = ("products", "ours", "unfused", "eager", "compile")


# ---- the layer, on any device ----


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
        return f"{self.loss}, {shape_of(self.rows, self.labels)}, {self.features} features, {self.dtype}"


class Layer:
    """Random input, weight, bias and targets, and the implementations of layer and loss."""

    def __init__(self, shape: Shape, device: str = "cpu") -> None:
        import torch

        import mlloss_cuda

        from .implementations import Problem, all_cases

        dtype = getattr(torch, shape.dtype)
        self.case = next(case for case in all_cases() if case.name == shape.loss)
        module = getattr(mlloss_cuda, {"bce": "BCEWithLogitsLoss", "zlpr": "ZLPRLoss"}[shape.loss])
        update = mlloss_cuda.FusedSGD(0.01) if shape.update else None
        self.head = mlloss_cuda.LinearLoss(
            shape.features, shape.labels, module(), device=device, dtype=dtype, fused_update=update
        )
        self.inputs = torch.randn(shape.rows, shape.features, device=device).to(dtype).requires_grad_()
        # A problem of 16 labels gives the targets; its logits would be too large at the layer's width.
        narrow = Problem(shape.rows, 16, dtype, device, 0).csr
        columns = narrow.col_indices * (shape.labels // 16)
        self.targets = mlloss_cuda.CSRTargets(narrow.crow_indices, columns, shape.labels)

    def fresh(self) -> None:
        """Drop the gradients of an earlier step."""
        for leaf in (self.inputs, *self.head.parameters()):
            leaf.grad = None

    def steps(self, names: Sequence[str]) -> dict[str, Callable[[], Any]]:
        """Return a forward and backward by each of these implementations."""
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

        def ours() -> None:
            self.head(x, self.targets).backward()

        steps: dict[str, Callable[[], Any]] = {
            "products": products,
            "ours": ours,
            FUSED_UPDATE: ours,  # the head of such a shape has the update
            "unfused": lambda: self.head.loss(F.linear(x, weight, bias), self.targets).backward(),
            "eager": lambda: formula(x, weight, bias).backward(),
            "compile": lambda: compiled(x, weight, bias).backward(),
        }
        return {name: steps[name] for name in names}


@dataclass
class LinearTime(Sampled):
    """One implementation of layer and loss: samples and memory, or why there are none."""

    loss: str
    implementation: str  # a key of NAMES
    rows: int
    labels: int
    features: int
    dtype: str
    ms: list[float] = field(default_factory=list)
    given_bytes: int | None = None  # input, weights, targets, and all other memory in use before the step
    peak_bytes: int | None = None  # beyond those; None: not measured
    planned_bytes: int | None = None
    failure: str = ""

    @classmethod
    def of(cls, shape: Shape, implementation: str) -> LinearTime:
        """Return an entry without samples."""
        return cls(shape.loss, implementation, shape.rows, shape.labels, shape.features, shape.dtype)

    def fail(self, words: str) -> None:
        """Record why there are no samples."""
        self.failure = words

    @property
    def wrong(self) -> str:
        """The error that stopped it; a lack of memory is none."""
        return "" if self.failure.startswith("OutOfMemory") else self.failure

    def as_json(self) -> dict[str, Any]:
        """Return all fields and the median, by the names that result files have."""
        found = {("way" if name == "implementation" else name): value for name, value in asdict(self).items()}
        return {**found, **({"median_ms": self.median} if self.ms else {})}


def linear_table(times: Sequence[LinearTime]) -> str:
    """Return a line for each implementation, on any device."""
    head = ("linear head", "shape, features", "ms", "least", "x products", "x ours", "peak MiB", "planned", "given")
    rows, untimed = [], []
    for one in times:
        if not one.ms:
            untimed.append(f"NOT TIMED: linear head, {one.loss}: {NAMES[one.implementation]}: {one.failure}")
            continue
        medians = {t.implementation: t.median for t in times if (t.loss, t.dtype) == (one.loss, one.dtype) and t.ms}
        rows.append(
            (
                f"{one.loss}: {NAMES[one.implementation]}",
                f"{shape_of(one.rows, one.labels)} x {one.features}",
                f"{one.median:.3f}" if one.median < 100 else f"{one.median:,.0f}",
                f"{one.minimum:.3f}" if one.minimum < 100 else f"{one.minimum:,.0f}",
                *(ratio(one.median / medians[name]) if name in medians else "" for name in ("products", "ours")),
                *map(mebibytes, (one.peak_bytes, one.planned_bytes, one.given_bytes)),
            )
        )
    return "\n".join([table(head, rows, padded=True), *untimed])


# ---- on a CPU ----


def _milliseconds(layer: Layer, step: Callable[[], Any]) -> float:
    layer.fresh()
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def times_of(shape: Shape, names: Sequence[str], count: int) -> list[LinearTime]:
    """Time each implementation in ``count`` interleaved rounds."""
    layer = Layer(shape)
    steps = layer.steps(names)
    for step in steps.values():
        _milliseconds(layer, step)
    times = {name: LinearTime.of(shape, name) for name in names}
    for _, order in rounds(names, count):
        for name in order:
            times[name].ms.append(_milliseconds(layer, steps[name]))
    return list(times.values())


def _peak(shape: Shape, name: str) -> dict[str, int]:
    """Measure, in this process, the bytes in use before a step, and the most that the step needs beyond them."""
    from .memory import Meter

    layer, meter = Layer(shape), Meter("cpu")
    (step,) = layer.steps([name]).values()
    result = {"planned_bytes": int(layer.head.plan(shape.rows).peak_bytes)}
    for _ in range(1 if shape.labels > 1_000_000 else 2):  # the first step grows thread stacks
        layer.fresh()
        gc.collect()
        before = meter.start()
        step()
        result |= {"peak_bytes": meter.peak() - before, "given_bytes": before}
    return result


def _measure_peak(shape: Shape, one: LinearTime) -> bool:
    """Measure memory in a process whose allocator returns what is freed; return False where it cannot be known."""
    from .memory import in_own_process, resets_peak

    if not resets_peak():
        return False
    found = in_own_process("bench.linear", {**asdict(shape), "name": one.implementation})
    one.peak_bytes, one.given_bytes = found["peak_bytes"], found["given_bytes"]
    if one.implementation == "ours":
        one.planned_bytes = found["planned_bytes"]
    return True


def _print_table(shape: Shape, names: Sequence[str], count: int) -> None:
    print(f"\n{shape}, reduction mean", flush=True)
    times = times_of(shape, names, count)
    for one in times:
        if one.implementation not in ("products", "compile"):
            _measure_peak(shape, one)
    print(linear_table(times), flush=True)


def _print_big(rows: int) -> None:
    for loss in ("bce", "zlpr"):
        shape = Shape(rows, 2_812_281, 768, "bfloat16", loss, "sgd")
        one = LinearTime.of(shape, "ours")
        assert _measure_peak(shape, one), "memory cannot be measured here"
        assert one.given_bytes is not None
        print(
            f"{shape}, plain SGD inside backward: peak {mebibytes(one.peak_bytes)} MiB beside "
            f"{one.given_bytes / 2**30:.2f} GiB of weights and process (planned {mebibytes(one.planned_bytes)})",
            flush=True,
        )


def main(given: list[str] | None = None) -> int:
    """Print the tables that the options name."""
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__)
    parser.add_argument("--big", action="store_true", help="memory of a step at 2,812,281 labels")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no torch.compile: does it run?")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="only this dtype")
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
    names = [name for name in _CPU_NAMES if not (name == "compile" and (options.no_compile or options.quick))]
    for dtype in [options.dtype] if options.dtype else ["float32", "bfloat16"]:
        for loss in ("bce", "zlpr"):
            shape = Shape(8, 1_003, 16, dtype, loss) if options.quick else Shape(128, 131_073, 768, dtype, loss)
            _print_table(shape, names, 2 if options.quick else options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
