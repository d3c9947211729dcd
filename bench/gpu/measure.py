"""Times on a GPU by device events. Nothing is timed before its output was compared with float64."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import unit_grad_output
from mlloss_cuda.losses import compound_loss

from ..check import check_gradient, check_value, jumps, truth
from ..implementations import Case, Implementation, Problem, build
from ..samples import Sampled, rounds
from .device import Device
from .plan import Group
from .strategies import ONE_LOSS, SUM_OF_LOSSES, Strategy, forced, last_strategy, strategies

__all__ = ["OURS", "ROUNDS", "Job", "Rotation", "Timed", "failures_go_to", "jobs_of", "measure_case"]

_GRAD_OUTPUT = 0.5
_LOSS_SCALE = 2.0**15  # the largest power of two in float16
ROUNDS = 3
OURS = ("fused", "csr")


@dataclass
class Timed(Sampled):
    """One implementation of a loss at one shape, in one mode, by one strategy: samples, or why there are none."""

    case: str
    element_wise: bool
    dtype: str
    rows: int
    labels: int
    implementation: str
    mode: str
    strategy: str  # empty for peers
    default: bool  # whether the planner chooses this strategy
    plan: str
    floor_bytes: int  # logits, gradient and targets, once each
    planned_bytes: int  # bytes that the plan reads and writes in any memory
    ms: list[float] = field(default_factory=list)
    failure: str = ""
    ran: str = ""  # the strategy that the CUDA engine took

    def fail(self, words: str) -> None:
        """Record why there are no samples."""
        self.failure = words

    @property
    def wrong(self) -> str:
        """The error of a kernel of ours; empty for peers, which may be missing."""
        if not self.ours:
            return ""
        return self.failure or (
            f"planned {self.strategy}, ran {self.ran}" if self.ran not in ("", self.strategy) else ""
        )

    @property
    def ours(self) -> bool:
        """True if this package's kernels were timed."""
        return self.implementation in OURS


class Rotation:
    """Copies of a problem with different data, so that no call finds in L2 what an earlier one read."""

    def __init__(self, group: Group, device: Device, seed: int) -> None:
        make = lambda i: Problem(group.rows, group.labels, getattr(torch, group.dtype), device.type, seed + i)  # noqa: E731
        first = make(0)
        footprint = 2 * first.nbytes + first.dense.nbytes
        count = min(512, max(2, -(-4 * device.l2_bytes // footprint)))
        self.problems = [first, *(make(i) for i in range(1, count))]
        # One for each dtype of a loss, so that backward converts nothing.
        self._grad_outputs: dict[torch.dtype, Tensor] = {}
        for problem in self.problems:  # so that no call waits for the allocator
            problem.leaf.grad = torch.empty_like(problem.source)

    def __getitem__(self, index: int) -> Problem:
        return self.problems[index % len(self.problems)]

    def prepare(self, index: int, implementation: Implementation) -> None:
        """Drop the gradients of an earlier call, and make the second argument if no call has made it yet."""
        self[index].forget_gradients()
        getattr(self[index], implementation.targets)

    def call(self, implementation: Implementation, mode: str, index: int) -> Tensor:
        """Run what is timed."""
        problem = self[index]
        if mode == "step":
            return implementation.run(problem.leaf, problem)
        if mode == "forward":
            with torch.no_grad():
                return implementation.loss(problem.leaf, problem)
        value = implementation.loss(problem.leaf, problem)
        value.backward(unit_grad_output(value) if mode == "unit" else self.grad_output(value))
        return value

    def grad_output(self, value: Tensor) -> Tensor:
        """Return a ``grad_output`` of one half."""
        if value.dtype not in self._grad_outputs:
            self._grad_outputs[value.dtype] = torch.full_like(value.detach(), _GRAD_OUTPUT)
        return self._grad_outputs[value.dtype]


@dataclass
class Job:
    """An implementation to time, the strategy that launches it, and its entry in the results."""

    timed: Timed
    implementation: Implementation
    strategy: Strategy | None  # None for peers
    host_seconds: float = 0.0

    def calls(self, rotation: Rotation) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
        """Return the preparation of a call, and the call."""
        each, mode = self.implementation, self.timed.mode
        return lambda index: rotation.prepare(index, each), lambda index: rotation.call(each, mode, index)


def _bytes(case: Case, problem: Problem, implementation: str, mode: str, reads: int) -> tuple[int, int]:
    """Return the bytes of the floor, and those that a plan with ``reads`` reads of the logits moves."""
    targets = problem.target_bytes[case.layouts.get(implementation, case.second_argument)]
    logits = problem.nbytes
    gradient = 0 if mode == "forward" else case.gradients * logits
    # float16 recomputes the gradient, so that grad_output costs no pass of its own there.
    again = 2 * gradient if mode == "scaled" and problem.dtype != torch.float16 else 0
    return logits + targets + gradient, reads * (logits + targets) + gradient + again


def _own(case: Case, group: Group, problem: Problem, device: Device, triton: bool) -> Iterator[Job]:
    """Yield this package's kernels: forward + backward by each strategy, other modes by the planner's choice."""
    element_wise = case.element_wise
    shape = (group.labels, group.rows, group.dtype)
    team_threads = SUM_OF_LOSSES if case.function is compound_loss else ONE_LOSS
    for mode in group.modes:
        for each in build(case, problem, OURS):
            targets = "csr" if each.name == "csr" else "bool"
            plans = strategies(*shape, element_wise, mode, device, targets, team_threads, triton)
            for plan in plans if mode == "step" or group.every_mode else plans[:1]:
                sizes = _bytes(case, problem, each.name, mode, plan.reads)
                timed = _timed(case, group, each.name, mode, sizes, plan.name, plan is plans[0], plan.words)
                yield Job(timed, each, plan)


def _timed(
    case: Case,
    group: Group,
    implementation: str,
    mode: str,
    sizes: tuple[int, int],
    strategy: str = "",
    default: bool = False,
    plan: str = "",
) -> Timed:
    shape = (group.dtype, group.rows, group.labels)
    return Timed(case.name, case.element_wise, *shape, implementation, mode, strategy, default, plan, *sizes)


def _peers(case: Case, group: Group, problem: Problem) -> Iterator[Job]:
    # With float32 logits the published formulas compute in float32 anyway.
    names = tuple(name for name in group.names if not (name == "float32" and group.dtype == "float32"))
    if not (case.main or group.every_mode):
        names = tuple(name for name in names if "compile" not in name)  # compiled only for the losses that tables show
    for each in build(case, problem, names):
        sizes = _bytes(case, problem, "", "step", 1)
        yield Job(_timed(case, group, each.name, "step", sizes), each, None)


@contextmanager
def failures_go_to(note: Callable[[str], Any], device: Device) -> Iterator[None]:
    """Pass an exception's words to ``note`` and go on; a CUDA error that stays is raised, which ends the process."""
    try:
        yield
    except Exception as error:
        note(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}")
        del error  # and with it the tensors of its frames
        device.synchronize()


def _check(job: Job, rotation: Rotation, expected: tuple[Tensor, ...]) -> None:
    """Compare one call with float64."""
    problem, mode = rotation[0], job.timed.mode
    rotation.prepare(0, job.implementation)
    if problem.dtype == torch.float16 and mode != "forward":
        # With a loss scale: without one, gradients of a mean over so many labels are zeros.
        factor = _LOSS_SCALE
        value = job.implementation.loss(problem.leaf, problem)
        value.backward(torch.full_like(value.detach(), factor))
    else:
        factor = 1.0 if mode == "step" else _GRAD_OUTPUT
        value = rotation.call(job.implementation, mode, 0)
    check_value(value, problem, expected[0])
    if mode != "forward":
        check_gradient(problem.gradient(), problem, expected[1], factor, jumps(job.timed.case))
        for of_other in expected[2:]:
            assert problem.other.grad is not None, "no gradient of the other logits"
            check_gradient(problem.other.grad, problem, of_other, factor)


def jobs_of(group: Group, case: Case, rotation: Rotation, device: Device, triton: bool = True) -> list[Job]:
    """Return every implementation of a loss at one shape and dtype, ours and peers."""
    if any("compile" in name for name in group.names):
        torch.compiler.reset()  # each case may recompile as often as dynamo allows
    return [*_own(case, group, rotation[0], device, triton), *_peers(case, group, rotation[0])]


def measure_case(case: Case, jobs: list[Job], rotation: Rotation, device: Device) -> None:
    """Check all jobs, then time those that are right, in interleaved rounds."""
    gc.collect()
    expected = truth(case, rotation[0])
    for job in jobs:
        timed, strategy = job.timed, job.strategy
        with failures_go_to(timed.fail, device), forced(strategy):
            _check(job, rotation, expected)
            if strategy is not None and strategy.engine == "cuda" and not device.dry:
                timed.ran = last_strategy()
            job.host_seconds = device.host_seconds(*job.calls(rotation), 1)
    index = 0
    for _, order in rounds(jobs, ROUNDS):
        for job in order:
            if job.timed.failure:
                continue
            with failures_go_to(job.timed.fail, device), forced(job.strategy):
                job.timed.ms += device.time_batch(*job.calls(rotation), index, job.host_seconds)
            index += 8
