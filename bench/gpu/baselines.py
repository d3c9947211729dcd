"""Baselines beside the times of losses: bandwidth, the host's time for a call, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from ..implementations import Case, Implementation, Problem, build
from ..memory import Remembered, memory_of, resets_peak
from .device import Device
from .measure import OURS, ROUNDS, Rotation
from .plan import HOST_SHAPE, MAIN_LABELS, Group

__all__ = ["HostTime", "bandwidth", "host_times", "peak_memory"]


def bandwidth(device: Device, compiled: bool = True) -> dict[str, dict[str, Any]]:
    """Return bytes a second of a copy, and of the fastest of some kernels that only read; samples in milliseconds.

    ``compiled``: whether one of the readers is ``torch.compile``'s.
    """
    numel = 1 << (18 if device.dry else 28)
    sources = [torch.randn(numel, device=device.type) for _ in range(2)]
    copies = [torch.empty_like(source) for source in sources]
    rows = [source.view(4096, -1) for source in sources]
    readers: dict[str, Callable[[int], Any]] = {
        "sum": lambda i: sources[i % 2].sum(),
        "amax of rows": lambda i: rows[i % 2].amax(1),
    }
    if compiled and not device.dry:
        reduction = torch.compile(lambda x: x.amax(1), dynamic=False)
        readers["amax of rows, torch.compile"] = lambda i: reduction(rows[i % 2])
    nbytes = sources[0].nbytes
    found = {"copy": _bandwidth(device, lambda i: copies[i % 2].copy_(sources[i % 2]), 2 * nbytes, "copy_")}
    read = []
    for name, reader in readers.items():
        # Only torch.compile may lack something that it needs.
        with suppress(*([Exception] if "compile" in name else [])):
            read.append(_bandwidth(device, reader, nbytes, name))
    found["read"] = max(read, key=lambda one: one["bytes_per_second"])
    return found


def _bandwidth(device: Device, call: Callable[[int], Any], nbytes: int, kernel: str) -> dict[str, Any]:
    idle = lambda index: None  # noqa: E731
    call(0)
    host = device.host_seconds(idle, call, 1)
    ms = [sample for _ in range(ROUNDS) for sample in device.time_batch(idle, call, 0, host)]
    return {"kernel": kernel, "bytes": nbytes, "ms": ms, "bytes_per_second": nbytes / statistics.median(ms) * 1e3}


# ---- small calls, and memory ----


@dataclass
class HostTime:
    """The host's time for a call, which waits for nothing."""

    case: str
    implementation: str
    mode: str
    rows: int
    labels: int
    us: list[float]

    @property
    def median(self) -> float:
        """The median in microseconds."""
        return statistics.median(self.us)


def _host_time(device: Device, rotation: Rotation, implementation: Implementation, mode: str) -> list[float]:
    samples = []
    for index in range(20 if device.dry else 400):
        if index % 50 == 0:
            device.synchronize()  # or the launch queue fills, and the host waits
        rotation.prepare(index, implementation)
        start = time.perf_counter_ns()
        rotation.call(implementation, mode, index)
        samples.append((time.perf_counter_ns() - start) / 1e3)
    return samples[len(samples) // 4 :]


def host_times(case: Case, device: Device, seed: int) -> list[HostTime]:
    """Measure the host's microseconds for a call at 64 x 5,000, bfloat16."""
    rotation = Rotation(Group(*HOST_SHAPE, "bfloat16", ()), device, seed)
    return [
        HostTime(case.name, implementation.name, mode, *HOST_SHAPE, _host_time(device, rotation, implementation, mode))
        for implementation in build(case, rotation[0], OURS)
        for mode in ("step", "unit", "forward")  # unit: a step whose grad_output is known to be 1
    ]


def peak_memory(case: Case, device: Device, seed: int) -> list[Remembered]:
    """Measure memory of forward + backward beyond logits and targets, in units of the logits, in bfloat16."""
    if device.dry and not resets_peak():
        return []
    rows, labels = (8, 50_001) if device.dry else (1_024, MAIN_LABELS)
    problem = Problem(rows, labels, torch.bfloat16, device.type, seed)
    names = (*OURS, "inplace", "eager", "plain", "float32", "torchvision")
    found = memory_of(case, problem, names)
    device.give_back()
    return found
