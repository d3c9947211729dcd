"""Device time. Nothing is timed before its output was compared with float64."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..check import check_gradient, check_value, truth
from ..competitors import Case, Competitor, Problem, build
from .device import Device
from .matrix import Group, Strategy, forced, strategies

__all__ = ["MODES", "OURS", "ROUNDS", "Rotation", "Timed", "measure_group"]

# Forward + backward; the same with a grad_output of 1/2; forward without gradient.
MODES = ("step", "scaled", "forward")
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
        value.backward(self.grad_output(value))
        return value

    def grad_output(self, value: Tensor) -> Tensor:
        """One half."""
        if value.dtype not in self._grad_outputs:
            self._grad_outputs[value.dtype] = torch.full_like(value.detach(), _GRAD_OUTPUT)
        return self._grad_outputs[value.dtype]


@dataclass
class _Contender:
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


def _own(case: Case, group: Group, problem: Problem, device: Device) -> Iterator[_Contender]:
    """This package's kernels: each strategy forward + backward, the planner's choice otherwise."""
    element_wise = case.element_wise
    for mode in MODES:
        ways = strategies(group.labels, group.rows, group.dtype, element_wise, mode, device.capability)
        for way in ways if mode == "step" or group.every_mode else ways[:1]:
            for competitor in build(case, problem, OURS):
                sizes = _bytes(case, problem, competitor.name, mode, way.reads)
                timed = _timed(case, group, competitor.name, mode, sizes, way.name, way is ways[0], way.words)
                yield _Contender(timed, competitor, way)


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


def _peers(case: Case, group: Group, problem: Problem) -> Iterator[_Contender]:
    # In float32 the formulas as published are in float32.
    names = tuple(name for name in group.peers if not (name == "float32" and group.dtype == "float32"))
    if not (case.main or group.every_mode):
        names = tuple(name for name in names if "compile" not in name)  # whose time goes to the four that tables show
    for competitor in build(case, problem, names):
        sizes = _bytes(case, problem, "", "step", 1)
        yield _Contender(_timed(case, group, competitor.name, "step", sizes), competitor, None)


def _check(contender: _Contender, rotation: Rotation, expected: tuple[Tensor, Tensor]) -> None:
    """Compare with float64; what went wrong is kept with the figures."""
    problem, mode = rotation[0], contender.timed.mode
    try:
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
            check_gradient(problem.gradient(), problem, expected[1], factor)
    except Exception as error:
        contender.timed.failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


def _calls(rotation: Rotation, contender: _Contender) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """What goes before a call, and the call."""
    competitor, mode = contender.competitor, contender.timed.mode
    return lambda index: rotation.prepare(index, competitor), lambda index: rotation.call(competitor, mode, index)


def _measure_case(contenders: list[_Contender], rotation: Rotation, device: Device, case: Case) -> None:
    expected = truth(case, rotation[0])
    for contender in contenders:
        with forced(contender.strategy):
            _check(contender, rotation, expected)
            if not contender.timed.failure:
                contender.host_seconds = device.host_seconds(*_calls(rotation, contender), 1)
    right = [contender for contender in contenders if not contender.timed.failure]
    order = random.Random(0)
    index = 0
    for _ in range(ROUNDS):
        for contender in order.sample(right, len(right)):
            with forced(contender.strategy):
                contender.timed.ms += device.time_batch(*_calls(rotation, contender), index, contender.host_seconds)
            index += 8


def measure_group(group: Group, cases: tuple[Case, ...], device: Device, seed: int) -> Iterator[Timed]:
    """Time all losses at one shape and dtype, ours and peers in interleaved rounds."""
    torch.compiler.reset()
    rotation = Rotation(group, device, seed)
    for case in cases:
        contenders = [*_own(case, group, rotation[0], device), *_peers(case, group, rotation[0])]
        gc.collect()
        _measure_case(contenders, rotation, device, case)
        yield from (contender.timed for contender in contenders)
    del rotation
    device.give_back()
