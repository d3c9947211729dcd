"""``python -m bench.overhead``: the host's share of a small call, against torch's own functions in the same run.

Each implementation runs on 2 x 16 float32 logits on one thread, where kernels take almost no time. The script prints
the Python calls of one step, and its least time as a ratio to the step that it is compared with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from mlloss_cuda import BCEWithLogitsLoss, LinearLoss, ZLPRLoss, bce_with_logits_loss, dice_loss, zlpr_loss

from .markdown import table

ROWS, LABELS, FEATURES = 2, 16, 8


class Pair(NamedTuple):
    """A step of this package and the step of torch, or of this package, that it is compared with."""

    name: str
    step: Callable[[], Any]
    baseline_name: str
    baseline: Callable[[], Any]
    most: float  # the ratio that this project aims at


def python_calls(step: Callable[[], Any]) -> int:
    """Return how many Python functions one step calls."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count - 1  # the step itself


def least_times(steps: list[Callable[[], Any]], rounds: int, calls: int) -> list[float]:
    """Return each step's least mean time of a round, in seconds; the rounds of all steps alternate."""
    least = [float("inf")] * len(steps)
    for _ in range(rounds):
        for i, step in enumerate(steps):
            begin = time.perf_counter()
            for _ in range(calls):
                step()
            least[i] = min(least[i], (time.perf_counter() - begin) / calls)
    return least


def _trained(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], targets: torch.Tensor) -> Callable[[], None]:
    logits = torch.randn(ROWS, LABELS, requires_grad=True)

    def step() -> None:
        logits.grad = None
        loss(logits, targets).backward()

    return step


def _evaluated(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], targets: torch.Tensor) -> Callable[[], Any]:
    logits = torch.randn(ROWS, LABELS)
    return lambda: loss(logits, targets)


def _heads(targets: torch.Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a step of ``LinearLoss``, and one of ``nn.Linear`` and the same loss."""
    inputs = torch.randn(ROWS, FEATURES)
    head = LinearLoss(FEATURES, LABELS, BCEWithLogitsLoss())
    layer, loss = torch.nn.Linear(FEATURES, LABELS), BCEWithLogitsLoss()

    def fused() -> None:
        head.zero_grad()
        head(inputs, targets).backward()

    def separate() -> None:
        layer.zero_grad()
        loss(layer(inputs), targets).backward()

    return fused, separate


def pairs() -> list[Pair]:
    """Return what is compared."""
    targets = (torch.rand(ROWS, LABELS) < 0.2).float()
    torch_loss = F.binary_cross_entropy_with_logits
    torch_step, torch_value = _trained(torch_loss, targets), _evaluated(torch_loss, targets)
    zlpr_step = _trained(zlpr_loss, targets)
    compound = 1.0 * ZLPRLoss() + 0.5 * BCEWithLogitsLoss()
    head, layer = _heads(targets)
    in_torch = "F.binary_cross_entropy_with_logits"
    return [
        Pair("zlpr_loss, forward + backward", zlpr_step, in_torch, torch_step, 1.5),
        Pair(
            "bce_with_logits_loss, forward + backward",
            _trained(bce_with_logits_loss, targets),
            in_torch,
            torch_step,
            1.5,
        ),
        Pair("dice_loss, forward + backward", _trained(dice_loss, targets), in_torch, torch_step, 1.5),
        Pair("zlpr_loss, no gradient", _evaluated(zlpr_loss, targets), f"{in_torch}, no gradient", torch_value, 2.5),
        Pair("ZLPR + BCE, forward + backward", _trained(compound, targets), "zlpr_loss", zlpr_step, 1.5),
        Pair("LinearLoss, forward + backward", head, "nn.Linear and the loss", layer, 2.5),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds that alternate between the steps")
    parser.add_argument("--calls", type=int, default=200, help="calls of each step in a round")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for pair in pairs():
        for step in (pair.step, pair.baseline):
            least_times([step], 1, given.calls)
        ours, other = least_times([pair.step, pair.baseline], given.rounds, given.calls)
        rows.append(
            [pair.name, str(python_calls(pair.step)), pair.baseline_name, f"{ours / other:.2f}", f"{pair.most}"]
        )
    print(table(["step", "Python calls", "compared with", "time ratio", "aim"], rows))


if __name__ == "__main__":
    main()
