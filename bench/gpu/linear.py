"""The linear head at 2,812,281 labels on a GPU: time and memory of a step beside the three matrix products alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from ..linear import FUSED_UPDATE, Layer, LinearTime, Shape
from ..memory import Meter
from .device import Device
from .measure import ROUNDS, failures_go_to

__all__ = ["linear_times"]

_SHAPE = Shape(128, 2_812_281, 768, "bfloat16", "bce")
_DRY = Shape(8, 1_003, 16, "bfloat16", "bce")
# The largest difference to float32, as a share of the gradient's norm: bfloat16 rounds logits near -log L to a 16th.
_TOLERANCE = 0.05


def _check(layer: Layer, step: Callable[[], Any]) -> None:
    """Compare the input's gradient, to which every logit's contributes, with products and formula in float32."""
    x = layer.inputs.detach().float().requires_grad_()
    logits = F.linear(x, layer.head.weight.detach().float(), layer.head.bias.detach().float())
    layer.case.reference(logits, layer.targets).backward()
    step()  # may change the weights
    found = layer.inputs.grad
    assert found is not None, "no gradient"
    assert x.grad is not None, "no gradient"
    error = float((found.float() - x.grad).norm() / x.grad.norm())
    assert error <= _TOLERANCE, f"the input's gradient differs from float32 by {error:.2g} of its norm"


def _measure(shape: Shape, device: Device, one: LinearTime) -> None:
    layer, meter = Layer(shape, device.type), Meter(device.type)
    (step,) = layer.steps([one.implementation]).values()
    prepare, call = lambda index: layer.fresh(), lambda index: step()
    if one.implementation in ("ours", FUSED_UPDATE):
        _check(layer, step)
        one.planned_bytes = int(layer.head.plan(shape.rows).peak_bytes)
    layer.fresh()
    step()
    if not device.dry:
        layer.fresh()
        one.given_bytes = meter.start()
        step()
        one.peak_bytes = meter.peak() - one.given_bytes
    host = device.host_seconds(prepare, call, 0)
    for _ in range(ROUNDS):
        one.ms += device.time_batch(prepare, call, 0, host)


def linear_times(loss: str, device: Device, found: list[LinearTime]) -> None:
    """Append an entry for each: the products, ours with gradients, ours with SGD inside backward, and unfused."""
    shape = replace(_DRY if device.dry else _SHAPE, loss=loss)
    for name in ("products", "ours", FUSED_UPDATE, "unfused"):
        one = LinearTime.of(shape, name)
        found.append(one)
        with failures_go_to(one.fail, device):
            _measure(replace(shape, update="sgd" if name == FUSED_UPDATE else None), device, one)
        gc.collect()
        device.give_back()
