"""The device that is measured: a CUDA device, or in a dry run the CPU."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Device", "gpu_facts"]

Call = Callable[[int], None]

_BATCH = 8  # timed calls between two waits: few enough for the launch queue, which holds 1,024
_SPIN_HZ = 2_000_000_000  # cycles a second, no less than any clock's, so that a spin is not too short


@dataclass
class Device:
    """Clocks and facts of the device; with ``dry`` the CPU and its clock stand for a GPU."""

    dry: bool
    type: str = field(init=False)
    capability: int = field(init=False)
    l2_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.type = "cpu" if self.dry else "cuda"
        if self.dry:
            self.capability, self.l2_bytes = 90, 1 << 16
            return
        properties = torch.cuda.get_device_properties()
        self.capability, self.l2_bytes = 10 * properties.major + properties.minor, properties.L2_cache_size

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.dry:
            torch.cuda.synchronize()

    def give_back(self) -> None:
        """Free the memory that torch has cached for the last shape."""
        if not self.dry:
            torch.cuda.empty_cache()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Open a range for a profiler that does not profile from the start: a mark, then the calls of this block."""
        if self.dry:
            yield
            return
        torch.cuda.profiler.start()
        torch.cuda._sleep(1)
        try:
            yield
        finally:
            torch.cuda.profiler.stop()

    def time_batch(self, prepare: Call, call: Call, first: int, host_seconds: float) -> list[float]:
        """Return the milliseconds of ``call(first)``, ``call(first + 1)``, ...; ``prepare(i)`` runs before, untimed."""
        if self.dry:
            return [_by_cpu_clock(prepare, call, first + i) for i in range(2)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(_BATCH)]
        # The device spins while the host queues the batch, so that no call waits for its launch.
        torch.cuda._sleep(int(min(1.0, 1.5 * _BATCH * host_seconds + 2e-4) * _SPIN_HZ))
        for i, (start, end) in enumerate(events):
            prepare(first + i)
            start.record()
            call(first + i)
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def host_seconds(self, prepare: Call, call: Call, index: int) -> float:
        """Return the seconds that the host takes to queue a call."""
        self.synchronize()
        prepare(index)
        start = time.perf_counter()
        call(index)
        return time.perf_counter() - start


def _by_cpu_clock(prepare: Call, call: Call, index: int) -> float:
    prepare(index)
    start = time.perf_counter_ns()
    call(index)
    return (time.perf_counter_ns() - start) / 1e6


_FACTS = ("name", "driver_version", "compute_cap", "memory.total", "power.limit", "ecc.mode.current")
_CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "temperature.gpu",
    "power.draw",
    "utilization.gpu",
)


def gpu_facts(clocks_only: bool = False) -> dict[str, Any]:
    """Return what the driver reports about the device now; nothing if there is no ``nvidia-smi``."""
    if shutil.which("nvidia-smi") is None:
        return {}
    names = _CLOCKS if clocks_only else _FACTS + _CLOCKS
    index = str(torch.cuda.current_device()) if torch.cuda.is_available() else "0"
    answered = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "-i", index],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if answered.returncode:
        return {"nvidia-smi": answered.stdout.strip()[:200]}
    values = [value.strip() for value in answered.stdout.strip().split(",")]
    return dict(zip(names, values, strict=False))
