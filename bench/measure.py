"""Time, and memory. ``python -m bench.measure`` is the process that memory is measured in."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import formulas, give_memory_back
from .check import check, truth
from .competitors import LAYOUTS, OURS, Case, Competitor, Problem, all_cases, build

__all__ = ["Measured", "Remembered", "Request", "Samples", "measure_case", "measure_memory", "memory_of"]

_SLOW_MS = 30.0  # A competitor slower than this is timed in every third round only.
_QUIET = 0.05  # Other processes' share of processor time that is let pass.
_ENOUGH = 12  # rounds, after which a case stops when its time is out: a busy machine has no end


@dataclass
class Samples:
    """Times of one competitor."""

    ms: list[float] = field(default_factory=list)
    page_faults: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure that tables and gates go by."""
        return statistics.median(self.ms)

    @property
    def minimum(self) -> float:
        """The least disturbed run."""
        return min(self.ms)

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        if len(self.ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass
class Measured:
    """One case at one shape, dtype and device: samples by competitor."""

    case: str
    device: str
    dtype: str
    rows: int
    labels: int
    samples: dict[str, Samples]
    logits_bytes: int
    target_bytes: dict[str, int]  # in each form; what is in the place of dense ones, where a loss has no targets
    unavailable: dict[str, str]  # competitor: why
    others: float | None  # share of the machine's processor time that went elsewhere; None: unknown

    def of_the_floor(self, name: str) -> float | None:
        """Logits, gradient and targets once each, at the speed of the copy in the same rounds, over the time."""
        if name == "copy" or "copy" not in self.samples:
            return None
        layout = LAYOUTS.get(name, "dense")
        copies = (2 * self.logits_bytes + self.target_bytes[layout]) / (2 * self.logits_bytes)
        return copies * self.samples["copy"].median / self.samples[name].median

    @property
    def quiet(self) -> bool:
        """Whether the times can be believed: threads that wait for a core cost whole time slices."""
        return self.others is None or self.others < _QUIET


def _clocked(competitor: Competitor, problem: Problem) -> tuple[float, int]:
    """Milliseconds and page faults of one run on a CPU. GPUs have a program of their own: ``bench.gpu``."""
    logits = problem.fresh(competitor.in_place)
    faults = _page_faults()
    start = time.perf_counter_ns()
    competitor.run(logits, problem)
    ms = (time.perf_counter_ns() - start) / 1e6
    return ms, _page_faults() - faults


class _Others:
    """Processor time that this process does not use: from /proc/stat, stolen time included."""

    def __init__(self) -> None:
        self.start = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        own = time.process_time()
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle, waiting = fields[3:5]
        tick: int = os.sysconf("SC_CLK_TCK")
        return (sum(fields) - idle - waiting) / tick - own, sum(fields) / tick

    def share(self) -> float:
        elsewhere, total = (now - then for now, then in zip(self._read(), self.start, strict=True))
        return max(elsewhere, 0.0) / total if total else 0.0


def _watch_others() -> _Others | None:
    try:
        return _Others()
    except (OSError, ValueError):
        return None  # no /proc/stat here


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _ready(case: Case, problem: Problem, names: tuple[str, ...]) -> tuple[list[Competitor], dict[str, str]]:
    """The competitors that run here and are right, each checked against float64. Ours must be."""
    if any("compile" in name for name in names):
        torch.compiler.reset()  # every case has dynamo's budget of recompilations to itself
    expected = truth(case, problem)
    ready, unavailable = [], {}
    for name in names:
        if case.name in formulas.PACKAGED.get(name, ()) and importlib.util.find_spec(name) is None:
            unavailable[name] = "not installed"
            continue
        try:
            for competitor in build(case, problem, (name,)):
                check(case, competitor, problem, expected)
                ready.append(competitor)
        except Exception as error:
            if name in OURS:
                raise AssertionError(f"{case.name}, {name}: {error}") from error
            # Without a C++ compiler, or half installed; or wrong, as formulas are that lose small numbers.
            unavailable[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return ready, unavailable


def measure_case(case: Case, problem: Problem, names: tuple[str, ...], rounds: int, seconds: float = 8.0) -> Measured:
    """Time every competitor in interleaved rounds, in an order drawn anew each round.

    It ends after so many rounds, or after so many seconds with rounds enough.
    """
    competitors, unavailable = _ready(case, problem, names)
    pilot = {c.name: min(_clocked(c, problem)[0] for _ in range(2)) for c in competitors}
    samples = {c.name: Samples() for c in competitors}
    order = random.Random(0)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    end = time.monotonic() + seconds
    others = _watch_others()
    try:
        for number in range(rounds):
            if number >= _ENOUGH and time.monotonic() > end:
                break
            for c in order.sample(competitors, len(competitors)):
                if pilot[c.name] > _SLOW_MS and number % 3:
                    continue
                ms, faults = _clocked(c, problem)
                samples[c.name].ms.append(ms)
                samples[c.name].page_faults.append(faults)
    finally:
        if collecting:
            gc.enable()
    dtype = str(problem.dtype).removeprefix("torch.")
    share = others.share() if others else None
    return Measured(
        case.name,
        problem.device,
        dtype,
        problem.rows,
        problem.labels,
        samples,
        problem.nbytes,
        {**problem.target_bytes, "dense": problem.target_bytes[case.beside]},
        unavailable,
        share,
    )


# ---- memory ----


@dataclass
class Remembered:
    """Memory beyond logits and targets, in units of the logits."""

    case: str
    competitor: str
    device: str
    held: float  # after the forward
    peak: float  # of forward + backward
    rows: int
    labels: int
    dtype: str


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _cpu_memory(competitor: Competitor, problem: Problem) -> tuple[int, int]:
    logits = problem.fresh(competitor.in_place)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from VmRSS
    before = _status("VmRSS")
    value = competitor.loss(logits, problem)
    held = _status("VmRSS") - before
    value.backward()
    return held, _status("VmHWM") - before


def _cuda_memory(competitor: Competitor, problem: Problem) -> tuple[int, int]:
    logits = problem.fresh(competitor.in_place)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = competitor.loss(logits, problem)
    held = torch.cuda.memory_allocated() - before
    value.backward()
    torch.cuda.synchronize()
    return held, torch.cuda.max_memory_allocated() - before


def memory_of(case: Case, problem: Problem, names: tuple[str, ...]) -> list[Remembered]:
    """Memory of each competitor, in this process."""
    read = _cuda_memory if problem.device == "cuda" else _cpu_memory
    if any("compile" in name for name in names):
        torch.compiler.reset()
    rows = []
    shape = (problem.rows, problem.labels, str(problem.dtype).removeprefix("torch."))
    gc.collect()
    for competitor in build(case, problem, names):
        read(competitor, problem)  # the first run compiles, loads code and grows thread stacks
        held, peak = (size / problem.nbytes for size in read(competitor, problem))
        rows.append(Remembered(case.name, competitor.name, problem.device, held, peak, *shape))
    return rows


@dataclass(frozen=True)
class Request:
    """Whose memory is wanted at one shape: competitors by case."""

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
    """Memory on a CPU, in a process without the warm allocator; and what went wrong, if something did."""
    if not Path("/proc/self/clear_refs").exists():
        return [], "this system has no /proc/self/clear_refs to reset the peak with"
    finished = subprocess.run(
        [sys.executable, "-m", "bench.measure", json.dumps([asdict(request) for request in requests])],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        return [], (finished.stderr.strip().splitlines() or ["no message"])[-1]
    return [Remembered(**row) for row in json.loads(finished.stdout.splitlines()[-1])], ""


if __name__ == "__main__":
    give_memory_back()
    print(json.dumps(_child([Request(**request) for request in json.loads(sys.argv[1])])))
