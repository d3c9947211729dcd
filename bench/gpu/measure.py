"""Device time. Nothing is timed before its output was compared with float64."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import unit_grad_output
from mlloss_cuda.losses import compound_loss

from ..check import check_gradient, check_value, jumps, truth
from ..competitors import Case, Competitor, Problem, build
from .device import Device
from .matrix import Group, Strategy, forced, last_strategy, strategies

__all__ = [
    "OURS",
    "ROUNDS",
    "Contender",
    "Rotation",
    "Timed",
    "contenders_of",
    "failures_go_to",
    "measure_case",
]

_GRAD_OUTPUT = 0.5
_LOSS_SCALE = 2.0**15  # float16 holds no larger power of two
ROUNDS = 3
OURS = ("fused", "csr")


@dataclass
class Timed:
    """One way to compute a loss at one shape: samples, or why there are none."""

    case: str
    element_wise: bool
    dtype: str
    rows: int
    labels: int
    competitor: str
    mode: str
    strategy: str  # empty for peers
    default: bool  # what the planner takes unasked
    plan: str
    floor_bytes: int  # logits, gradient and targets, once each
    planned_bytes: int  # what the plan reads and writes, from whatever memory
    ms: list[float] = field(default_factory=list)
    failure: str = ""
    ran: str = ""  # the strategy that the CUDA engine took

    def fail(self, words: str) -> None:
        """Say why there are no samples."""
        self.failure = words

    @property
    def wrong(self) -> str:
        """What a kernel of ours did that it should not; empty for peers, which may be missing."""
        if not self.ours:
            return ""
        return self.failure or (
            f"planned {self.strategy}, ran {self.ran}" if self.ran not in ("", self.strategy) else ""
        )

    @property
    def ours(self) -> bool:
        """Whether it is this package's kernels."""
        return self.competitor in OURS

    @property
    def median(self) -> float:
        """Milliseconds, the figure that tables and gates go by."""
        return statistics.median(self.ms)


class Rotation:
    """Copies of a problem with data of their own: what one call leaves in L2 is of no use to the next."""

    def __init__(self, group: Group, device: Device, seed: int) -> None:
        make = lambda i: Problem(group.rows, group.labels, getattr(torch, group.dtype), device.type, seed + i)  # noqa: E731
        first = make(0)
        footprint = 2 * first.nbytes + first.dense.nbytes
        count = min(512, max(2, -(-4 * device.l2_bytes // footprint)))
        self.problems = [first, *(make(i) for i in range(1, count))]
        # Of the losses' own dtype, so that backward converts nothing.
        self._grad_outputs: dict[torch.dtype, Tensor] = {}
        for problem in self.problems:  # so that no call waits for the allocator
            problem.leaf.grad = torch.empty_like(problem.source)

    def __getitem__(self, index: int) -> Problem:
        return self.problems[index % len(self.problems)]

    def prepare(self, index: int, competitor: Competitor) -> None:
        """Drop the gradient that an earlier call left, and make what is taken beside the logits, if nobody has yet."""
        self[index].leaf.grad = None
        getattr(self[index], competitor.targets)

    def call(self, competitor: Competitor, mode: str, index: int) -> Tensor:
        """What is timed."""
        problem = self[index]
        if mode == "step":
            return competitor.run(problem.leaf, problem)
        if mode == "forward":
            with torch.no_grad():
                return competitor.loss(problem.leaf, problem)
        value = competitor.loss(problem.leaf, problem)
        value.backward(unit_grad_output(value) if mode == "unit" else self.grad_output(value))
        return value

    def grad_output(self, value: Tensor) -> Tensor:
        """One half."""
        if value.dtype not in self._grad_outputs:
            self._grad_outputs[value.dtype] = torch.full_like(value.detach(), _GRAD_OUTPUT)
        return self._grad_outputs[value.dtype]


@dataclass
class Contender:
    """A way to compute a loss, and what is known of it."""

    timed: Timed
    competitor: Competitor
    strategy: Strategy | None
    host_seconds: float = 0.0


def _bytes(case: Case, problem: Problem, competitor: str, mode: str, reads: int) -> tuple[int, int]:
    """The floor, and what a plan with so many reads of the logits moves."""
    targets = problem.target_bytes[case.layouts.get(competitor, case.beside)]
    logits = problem.nbytes
    gradient = 0 if mode == "forward" else logits
    # float16 recomputes, so that grad_output costs no pass of its own there.
    again = 2 * gradient if mode == "scaled" and problem.dtype != torch.float16 else 0
    return logits + targets + gradient, reads * (logits + targets) + gradient + again


def _own(case: Case, group: Group, problem: Problem, device: Device, triton: bool) -> Iterator[Contender]:
    """This package's kernels: each strategy forward + backward, the planner's choice otherwise."""
    element_wise = case.element_wise
    shape, held = (group.labels, group.rows, group.dtype), case.function is not compound_loss
    for mode in group.modes:
        for competitor in build(case, problem, OURS):
            targets = "csr" if competitor.name == "csr" else "bool"
            ways = strategies(*shape, element_wise, mode, device, targets, held, triton)
            for way in ways if mode == "step" or group.every_mode else ways[:1]:
                sizes = _bytes(case, problem, competitor.name, mode, way.reads)
                timed = _timed(case, group, competitor.name, mode, sizes, way.name, way is ways[0], way.words)
                yield Contender(timed, competitor, way)


def _timed(
    case: Case,
    group: Group,
    competitor: str,
    mode: str,
    sizes: tuple[int, int],
    strategy: str = "",
    default: bool = False,
    plan: str = "",
) -> Timed:
    shape = (group.dtype, group.rows, group.labels)
    return Timed(case.name, case.element_wise, *shape, competitor, mode, strategy, default, plan, *sizes)


def _peers(case: Case, group: Group, problem: Problem) -> Iterator[Contender]:
    # In float32 the formulas as published are in float32.
    names = tuple(name for name in group.peers if not (name == "float32" and group.dtype == "float32"))
    if not (case.main or group.every_mode):
        names = tuple(name for name in names if "compile" not in name)  # whose time goes to the four that tables show
    for competitor in build(case, problem, names):
        sizes = _bytes(case, problem, "", "step", 1)
        yield Contender(_timed(case, group, competitor.name, "step", sizes), competitor, None)


@contextmanager
def failures_go_to(note: Callable[[str], Any], device: Device) -> Iterator[None]:
    """Keep an exception in words and go on; an error of CUDA that stays, and so the end of this process, is raised."""
    try:
        yield
    except Exception as error:
        note(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}")
        del error  # and with it the tensors of its frames
        device.synchronize()


def _check(contender: Contender, rotation: Rotation, expected: tuple[Tensor, Tensor]) -> None:
    """Compare with float64."""
    problem, mode = rotation[0], contender.timed.mode
    rotation.prepare(0, contender.competitor)
    if problem.dtype == torch.float16 and mode != "forward":
        # With a loss scale: without one, gradients of a mean over so many labels are zeros.
        factor = _LOSS_SCALE
        value = contender.competitor.loss(problem.leaf, problem)
        value.backward(torch.full_like(value.detach(), factor))
    else:
        factor = 1.0 if mode == "step" else _GRAD_OUTPUT
        value = rotation.call(contender.competitor, mode, 0)
    check_value(value, problem, expected[0])
    if mode != "forward":
        check_gradient(problem.gradient(), problem, expected[1], factor, jumps(contender.timed.case))


def _calls(rotation: Rotation, contender: Contender) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """What goes before a call, and the call."""
    competitor, mode = contender.competitor, contender.timed.mode
    return lambda index: rotation.prepare(index, competitor), lambda index: rotation.call(competitor, mode, index)


def contenders_of(group: Group, case: Case, rotation: Rotation, device: Device, triton: bool = True) -> list[Contender]:
    """Every way to compute a loss at one shape and dtype, ours and peers."""
    if any("compile" in name for name in group.peers):
        torch.compiler.reset()  # every case has dynamo's budget of recompilations to itself
    return [*_own(case, group, rotation[0], device, triton), *_peers(case, group, rotation[0])]


def measure_case(case: Case, contenders: list[Contender], rotation: Rotation, device: Device) -> None:
    """Check them, then time those that are right, in interleaved rounds."""
    gc.collect()
    expected = truth(case, rotation[0])
    for contender in contenders:
        timed, way = contender.timed, contender.strategy
        with failures_go_to(timed.fail, device), forced(way):
            _check(contender, rotation, expected)
            if way is not None and way.engine == "cuda" and not device.dry:
                timed.ran = last_strategy()
            contender.host_seconds = device.host_seconds(*_calls(rotation, contender), 1)
    order = random.Random(0)
    index = 0
    for _ in range(ROUNDS):
        right = [contender for contender in contenders if not contender.timed.failure]
        for contender in order.sample(right, len(right)):
            with failures_go_to(contender.timed.fail, device), forced(contender.strategy):
                contender.timed.ms += device.time_batch(*_calls(rotation, contender), index, contender.host_seconds)
            index += 8
