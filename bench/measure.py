"""Times on a CPU: the least disturbed of interleaved rounds, each implementation checked before."""

from __future__ import annotations

import gc
import importlib.util
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from . import formulas, touch_memory
from .check import check, truth
from .implementations import LAYOUTS, OURS, Case, Implementation, Problem, build
from .samples import Samples, rounds

__all__ = ["Measured", "clocked", "measure_case", "meets_new_memory"]

_FEW = 100  # page faults of a run that meets no new memory
_TOUCHED = 4  # times the size of the logits
_SLOW_MS = 30.0  # an implementation slower than this is timed in every third round only
_QUIET = 0.05  # the largest share of processor time that other processes may take
_ENOUGH = 12  # rounds, after which a case ends when its time is over: on a busy machine it would not end


@dataclass
class Measured:
    """One case at one shape, dtype and device: samples by implementation."""

    case: str
    device: str
    dtype: str
    rows: int
    labels: int
    samples: dict[str, Samples]
    logits_bytes: int
    # By form. If the loss takes no targets, "dense" is its second argument and the gradient of that argument.
    target_bytes: dict[str, int]
    unavailable: dict[str, str]  # implementation: reason
    others: float | None  # share of the machine's processor time that other processes took; None: unknown

    def of_the_floor(self, name: str) -> float | None:
        """Return the time of moving logits, gradient and targets once each, at this copy's speed, over the time."""
        if name == "copy" or "copy" not in self.samples:
            return None
        layout = LAYOUTS.get(name, "dense")
        copies = (2 * self.logits_bytes + self.target_bytes[layout]) / (2 * self.logits_bytes)
        return copies * self.samples["copy"].median / self.samples[name].median

    @property
    def quiet(self) -> bool:
        """True if the times are reliable: a thread that waits for a core costs whole time slices."""
        return self.others is None or self.others < _QUIET


def meets_new_memory(page_faults: int) -> bool:
    """Return whether a run with this many page faults used memory that the process had not used before."""
    return page_faults >= _FEW


def clocked(implementation: Implementation, problem: Problem) -> tuple[float, int]:
    """Return milliseconds and page faults of one run on a CPU. ``bench.gpu`` measures GPUs.

    If freed memory stays with the process, a run that meets new memory nevertheless is repeated once, after some
    memory for its results has been touched.
    """
    ms, faults = _once(implementation, problem)
    if meets_new_memory(faults) and touch_memory(_TOUCHED * problem.nbytes):
        return _once(implementation, problem)
    return ms, faults


def _once(implementation: Implementation, problem: Problem) -> tuple[float, int]:
    logits = problem.fresh(implementation.in_place)
    faults = _page_faults()
    start = time.perf_counter_ns()
    implementation.run(logits, problem)
    ms = (time.perf_counter_ns() - start) / 1e6
    return ms, _page_faults() - faults


class _Others:
    """Processor time that this process does not use, from /proc/stat; stolen time is included."""

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
        return None  # this system has no /proc/stat


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _ready(case: Case, problem: Problem, names: tuple[str, ...]) -> tuple[list[Implementation], dict[str, str]]:
    """Return the implementations that run here and agree with float64, and why others do not. Ours must."""
    if any("compile" in name for name in names):
        torch.compiler.reset()  # each case may recompile as often as dynamo allows
    expected = truth(case, problem)
    ready, unavailable = [], {}
    for name in names:
        if case.name in formulas.PACKAGED.get(name, ()) and importlib.util.find_spec(name) is None:
            unavailable[name] = "not installed"
            continue
        try:
            for implementation in build(case, problem, (name,)):
                check(case, implementation, problem, expected)
                ready.append(implementation)
        except Exception as error:
            if name in OURS:
                raise AssertionError(f"{case.name}, {name}: {error}") from error
            # No C++ compiler, a package half installed, or a wrong result: some formulas lose small numbers.
            unavailable[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return ready, unavailable


def measure_case(case: Case, problem: Problem, names: tuple[str, ...], count: int, seconds: float = 8.0) -> Measured:
    """Time every implementation in ``count`` interleaved rounds, or fewer if they take longer than ``seconds``."""
    implementations, unavailable = _ready(case, problem, names)
    pilot = {each.name: min(clocked(each, problem)[0] for _ in range(2)) for each in implementations}
    samples = {each.name: Samples() for each in implementations}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    others = _watch_others()
    try:
        for number, order in rounds(implementations, count, seconds, _ENOUGH):
            for each in order:
                if pilot[each.name] > _SLOW_MS and number % 3:
                    continue
                ms, faults = clocked(each, problem)
                samples[each.name].ms.append(ms)
                samples[each.name].page_faults.append(faults)
    finally:
        if collecting:
            gc.enable()
    share = others.share() if others else None
    return Measured(
        case.name,
        problem.device,
        str(problem.dtype).removeprefix("torch."),
        problem.rows,
        problem.labels,
        samples,
        problem.nbytes,
        {
            **problem.target_bytes,
            "dense": problem.target_bytes[case.second_argument] + (case.gradients - 1) * problem.nbytes,
        },
        unavailable,
        share,
    )
