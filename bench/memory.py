"""Peak memory: of this process's tensors, and of every implementation in a process of its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import give_memory_back, trim_memory
from .implementations import Case, Implementation, Problem, all_cases, build

__all__ = ["Meter", "Remembered", "Request", "in_own_process", "measure_memory", "memory_of", "resets_peak"]

_ROOT = Path(__file__).resolve().parents[1]
_CLEAR = Path("/proc/self/clear_refs")


# ---- the meter ----


def resets_peak() -> bool:
    """Return whether this system can measure the peak of resident memory."""
    return _CLEAR.exists()


def _status(name: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


class Meter:
    """Bytes in use: resident memory of the process on a CPU, memory of torch's allocator on a GPU."""

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"

    def start(self) -> int:
        """Forget the peak so far, and return the bytes in use.

        Raises:
            OSError: this system cannot measure the peak.
        """
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            trim_memory()
            _CLEAR.write_text("5")  # VmHWM starts again from VmRSS
        return self.in_use()

    def in_use(self) -> int:
        """Return the bytes in use now."""
        return torch.cuda.memory_allocated(self.device) if self.on_gpu else _status("VmRSS")

    def peak(self) -> int:
        """Return the most bytes in use since ``start``."""
        if not self.on_gpu:
            return _status("VmHWM")
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def in_own_process(module: str, request: Any) -> Any:
    """Run ``python -m MODULE --child REQUEST``, and return the JSON on the last line that it prints.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, "--child", json.dumps(request)]
    finished = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError((finished.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(finished.stdout.splitlines()[-1])


# ---- every implementation ----


@dataclass
class Remembered:
    """Memory beyond logits and targets, in units of the logits."""

    case: str
    implementation: str
    device: str
    held: float  # after the forward
    peak: float  # during forward + backward
    rows: int
    labels: int
    dtype: str


def _measure(implementation: Implementation, problem: Problem) -> tuple[int, int]:
    """Return the bytes that are held after the forward, and the peak."""
    logits, meter = problem.fresh(implementation.in_place), Meter(problem.device)
    before = meter.start()
    value = implementation.loss(logits, problem)
    held = meter.in_use() - before
    value.backward()
    return held, meter.peak() - before


def memory_of(case: Case, problem: Problem, names: tuple[str, ...]) -> list[Remembered]:
    """Measure the memory of each implementation in this process."""
    if any("compile" in name for name in names):
        torch.compiler.reset()
    rows = []
    shape = (problem.rows, problem.labels, str(problem.dtype).removeprefix("torch."))
    gc.collect()
    for implementation in build(case, problem, names):
        _measure(implementation, problem)  # the first run compiles, loads code and grows thread stacks
        held, peak = (size / problem.nbytes for size in _measure(implementation, problem))
        rows.append(Remembered(case.name, implementation.name, problem.device, held, peak, *shape))
    return rows


@dataclass(frozen=True)
class Request:
    """The implementations, by case, whose memory is measured at one shape."""

    names: dict[str, list[str]]
    rows: int
    labels: int
    dtype: str
    seed: int


def _child(requests: list[Request]) -> list[dict[str, Any]]:
    rows = []
    for request in requests:
        problem = Problem(request.rows, request.labels, getattr(torch, request.dtype), "cpu", request.seed)
        for case in all_cases():
            if case.name in request.names:
                rows += memory_of(case, problem, tuple(request.names[case.name]))
    return [asdict(row) for row in rows]


def measure_memory(requests: list[Request]) -> tuple[list[Remembered], str]:
    """Measure memory on a CPU in a process without the warm allocator; return an error's words, or none, as well."""
    if not resets_peak():
        return [], f"this system has no {_CLEAR} to reset the peak with"
    try:
        found = in_own_process("bench.memory", [asdict(request) for request in requests])
    except RuntimeError as error:
        return [], str(error)
    return [Remembered(**row) for row in found], ""


if __name__ == "__main__":
    give_memory_back()
    print(json.dumps(_child([Request(**request) for request in json.loads(sys.argv[2])])))
