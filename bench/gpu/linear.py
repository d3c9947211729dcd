"""The linear head at 2,812,281 labels: time and memory of a step beside the three matrix products alone."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..linear import NAMES, Layer, Shape
from ..report import table
from .device import Device
from .measure import ROUNDS, failures_go_to

__all__ = ["LinearTime", "linear_table", "linear_times"]

_SHAPE = Shape(128, 2_812_281, 768, "bfloat16", "bce")
_DRY = Shape(8, 1_003, 16, "bfloat16", "bce")
_FUSED = "fused update"
_NAMES = {**NAMES, _FUSED: f"{NAMES['ours']}, FusedSGD inside backward"}
_TOLERANCE = 0.05  # of the gradient's norm, to the same in float32: bfloat16 rounds logits near -log L to a 16th


@dataclass
class LinearTime:
    """One way to take a step: samples and memory, or why there are none."""

    loss: str
    way: str  # a key of _NAMES
    rows: int
    labels: int
    features: int
    dtype: str
    ms: list[float] = field(default_factory=list)
    given_bytes: int | None = None  # input, weights, targets, and all else that stood before the step
    peak_bytes: int | None = None  # beyond those; None on the CPU
    planned_bytes: int | None = None
    failure: str = ""

    def fail(self, words: str) -> None:
        """Say why there are no samples."""
        self.failure = words

    @property
    def wrong(self) -> str:
        """Why it did not run; a lack of memory is nobody's error."""
        return "" if self.failure.startswith("OutOfMemory") else self.failure

    def as_json(self) -> dict[str, Any]:
        """All of it, and the median."""
        return {**asdict(self), **({"median_ms": statistics.median(self.ms)} if self.ms else {})}


def _check(layer: Layer, step: Callable[[], Any]) -> None:
    """The input's gradient, which every logit's is summed to, against products and formula in float32."""
    x = layer.inputs.detach().float().requires_grad_()
    logits = F.linear(x, layer.head.weight.detach().float(), layer.head.bias.detach().float())
    layer.case.reference(logits, layer.targets).backward()
    step()  # which may change the weights
    found = layer.inputs.grad
    assert found is not None, "no gradient"
    assert x.grad is not None, "no gradient"
    error = float((found.float() - x.grad).norm() / x.grad.norm())
    assert error <= _TOLERANCE, f"the input's gradient differs from float32 by {error:.2g} of its norm"


def _memory(layer: Layer, step: Callable[[], Any]) -> tuple[int, int]:
    layer.fresh()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    given = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return given, torch.cuda.max_memory_allocated() - given


def _measure(shape: Shape, device: Device, one: LinearTime) -> None:
    layer = Layer(shape, device.type)
    (step,) = layer.ways(["ours" if one.way == _FUSED else one.way]).values()
    prepare, call = lambda index: layer.fresh(), lambda index: step()
    if one.way in ("ours", _FUSED):
        _check(layer, step)
        one.planned_bytes = int(layer.head.plan(shape.rows).peak_bytes)
    layer.fresh()
    step()
    if not device.dry:
        one.given_bytes, one.peak_bytes = _memory(layer, step)
    host = device.host_seconds(prepare, call, 0)
    for _ in range(ROUNDS):
        one.ms += device.time_batch(prepare, call, 0, host)


def linear_times(loss: str, device: Device, found: list[LinearTime]) -> None:
    """Each way into ``found``: the products, ours with gradients or with SGD inside backward, logits that stand."""
    shape = replace(_DRY if device.dry else _SHAPE, loss=loss)
    for way in ("products", "ours", _FUSED, "unfused"):
        one = LinearTime(loss, way, shape.rows, shape.labels, shape.features, shape.dtype)
        found.append(one)
        with failures_go_to(one.fail, device):
            _measure(replace(shape, update="sgd" if way == _FUSED else None), device, one)
        gc.collect()
        device.give_back()


def linear_table(times: list[LinearTime]) -> str:
    """A line each."""
    head = ("", "rows x labels x features", "ms", "x products", "peak MiB", "planned MiB", "given MiB")
    rows, untimed = [], []
    mib = lambda size: "" if size is None else f"{size / 2**20:,.0f}"  # noqa: E731
    for one in times:
        if not one.ms:
            untimed.append(f"NOT TIMED: linear head, {one.loss}: {_NAMES[one.way]}: {one.failure}")
            continue
        products = [t for t in times if (t.loss, t.way) == (one.loss, "products") and t.ms]
        median = statistics.median(one.ms)
        rows.append(
            (
                f"{one.loss}: {_NAMES[one.way]}",
                f"{one.rows} x {one.labels:,} x {one.features}",
                f"{median:.3f}",
                f"{median / statistics.median(products[0].ms):.2f}" if products else "",
                *map(mib, (one.peak_bytes, one.planned_bytes, one.given_bytes)),
            )
        )
    return "\n".join([table(head, rows), *untimed])
