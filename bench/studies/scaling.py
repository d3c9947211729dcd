"""``python -m bench.studies.scaling``: the time that a step of a sharded head should take on 8 to 1024 GPUs.

This is a calculation of weak scaling: each GPU has the same number of labels, and all see the same rows. Nothing is
measured; ``--step-ms`` replaces the assumed step of one device by a measured one.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import torch

from mlloss_cuda import LinearLoss, LinearPlan, ZLPRLoss, _ops

from ..markdown import table


@dataclass(frozen=True)
class Assumed:
    """Assumed sizes, and rates a second, those of memory and links in bytes."""

    rows: int = 1024
    features: int = 768
    labels: int = 351_536  # labels of a GPU: an eighth of 2,812,281
    flops: float = 0.65 * 989e12  # H200, bf16 dense as published, times the share that products reach
    memory: float = 0.85 * 4.8e12  # H200 as published, times the share that kernels reach
    node: int = 8  # GPUs of a node
    inside: float = 0.7 * 450e9  # NVLink 4, one direction, as published
    outside: float = 0.7 * 50e9  # 400 Gbit/s a GPU
    hop_inside: float = 2e-6  # latency of a hop of a collective
    hop_outside: float = 6e-6
    start: float = 15e-6  # latency of a collective of any size

    def plan(self) -> LinearPlan:
        """Return the plan of one device's head in bfloat16."""
        head = LinearLoss(self.features, self.labels, ZLPRLoss(), device="meta", dtype=torch.bfloat16)
        return head.plan(self.rows)

    def step(self) -> float:
        """Return the seconds of one device: the plan's products, then its traffic, as if they did not overlap."""
        plan = self.plan()
        products = plan.matrix_products * 2.0 * self.rows * self.features * self.labels / self.flops
        return products + plan.traffic_bytes / self.memory

    def hidden(self, step: float) -> float:
        """Return the seconds of the last chunk's product for the weights, which hide a part of ``reduced``."""
        plan = self.plan()
        return step / (plan.matrix_products * plan.chunks)

    def _link(self, ranks: int) -> tuple[float, float]:
        """Return bytes a second and latency of a ring's slowest link."""
        return (self.inside, self.hop_inside) if ranks <= self.node else (self.outside, self.hop_outside)

    def gathered(self, ranks: int) -> float:
        """Return the seconds of gathering the statistics: a tree of hops, and the bytes over the slowest link."""
        rate, hop = self._link(ranks)
        each = 8 * self.rows * _ops.counts_of("zlpr").statistics
        return self.start + hop * math.log2(ranks) + each * (ranks - 1) / rate

    def reduced(self, ranks: int) -> float:
        """Return the seconds of reducing the input's gradient in float32."""
        rate, hop = self._link(ranks)
        bytes_ = 4 * self.rows * self.features
        return self.start + 2 * hop * math.log2(ranks) + 2 * bytes_ * (ranks - 1) / ranks / rate


def main(given: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.scaling", description=__doc__)
    parser.add_argument("--step-ms", type=float, help="measured step of one device")
    parser.add_argument("--rows", type=int, default=Assumed.rows)
    options = parser.parse_args(given)
    assumed = Assumed(rows=options.rows)
    step = options.step_ms / 1e3 if options.step_ms else assumed.step()
    hidden = assumed.hidden(step)
    print(f"{assumed.plan()}\n")
    rows = []
    for ranks in (1, 8, 16, 64, 256, 1024):
        gathered, reduced = (0.0, 0.0) if ranks == 1 else (assumed.gathered(ranks), assumed.reduced(ranks))
        exposed = max(0.0, reduced - hidden)
        efficiency = step / (step + gathered + exposed)
        times = [f"{1e3 * seconds:.2f}" for seconds in (step, gathered, reduced, exposed)]
        rows.append([str(ranks), f"{ranks * assumed.labels:,}", *times, f"{efficiency:.0%}"])
    head = (
        "GPUs",
        "labels",
        "step of one, ms",
        "statistics, ms",
        "input's gradient, ms",
        "not hidden",
        "efficiency",
    )
    print(table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
