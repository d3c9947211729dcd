"""``python -m bench.studies.scaling``: what a step of a sharded head should take on 8 to 1024 GPUs, on paper.

Weak scaling: each GPU has as many labels, all see the same rows. Nothing here is measured; every number that goes in is
an option, and ``--step-ms`` takes the place of the assumed step of one device once there is one.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import torch

from mlloss_cuda import LinearLoss, LinearPlan, ZLPRLoss, _ops


@dataclass(frozen=True)
class Assumed:
    """Rates in units a second; bytes are bytes."""

    rows: int = 1024
    features: int = 768
    labels: int = 351_536  # of a GPU: an eighth of 2,812,281
    flops: float = 0.65 * 989e12  # H200, bf16 dense as published, and how much of it products reach
    memory: float = 0.85 * 4.8e12  # H200 as published, and how much of it kernels reach
    node: int = 8
    inside: float = 0.7 * 450e9  # NVLink 4, a direction, as published
    outside: float = 0.7 * 50e9  # 400 Gbit/s a GPU
    hop_inside: float = 2e-6  # latency of a hop of a collective
    hop_outside: float = 6e-6
    start: float = 15e-6  # of a collective, whatever its size

    def plan(self) -> LinearPlan:
        """Of one device's head, in bfloat16."""
        head = LinearLoss(self.features, self.labels, ZLPRLoss(), device="meta", dtype=torch.bfloat16)
        return head.plan(self.rows)

    def step(self) -> float:
        """Seconds of one device: the plan's products, then its traffic, as if nothing of them overlapped."""
        plan = self.plan()
        products = plan.matrix_products * 2.0 * self.rows * self.features * self.labels / self.flops
        return products + plan.traffic_bytes / self.memory

    def hidden(self, step: float) -> float:
        """Of the input's gradient's way, what the last chunk's product of weights takes meanwhile."""
        plan = self.plan()
        return step / (plan.matrix_products * plan.chunks)

    def _way(self, ranks: int) -> tuple[float, float]:
        """Bytes a second and latency of a ring's slowest link."""
        return (self.inside, self.hop_inside) if ranks <= self.node else (self.outside, self.hop_outside)

    def gathered(self, ranks: int) -> float:
        """Seconds of the statistics' gather; in a tree of hops, its bytes past the slowest link."""
        rate, hop = self._way(ranks)
        each = 8 * self.rows * _ops.counts_of("zlpr").statistics
        return self.start + hop * math.log2(ranks) + each * (ranks - 1) / rate

    def reduced(self, ranks: int) -> float:
        """Seconds of the input's gradient on its way, in float32."""
        rate, hop = self._way(ranks)
        bytes_ = 4 * self.rows * self.features
        return self.start + 2 * hop * math.log2(ranks) + 2 * bytes_ * (ranks - 1) / ranks / rate


def main(given: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.scaling", description=__doc__)
    parser.add_argument("--step-ms", type=float, help="of one device, measured")
    parser.add_argument("--rows", type=int, default=Assumed.rows)
    options = parser.parse_args(given)
    assumed = Assumed(rows=options.rows)
    step = options.step_ms / 1e3 if options.step_ms else assumed.step()
    hidden = assumed.hidden(step)
    print(f"{assumed.plan()}\n")
    print("| GPUs | labels | step of one, ms | statistics, ms | input's gradient, ms | of it not hidden | efficiency |")
    print("|---|---|---|---|---|---|---|")
    for ranks in (1, 8, 16, 64, 256, 1024):
        gathered, reduced = (0.0, 0.0) if ranks == 1 else (assumed.gathered(ranks), assumed.reduced(ranks))
        open_ = max(0.0, reduced - hidden)
        efficiency = step / (step + gathered + open_)
        numbers = " | ".join(f"{1e3 * seconds:.2f}" for seconds in (step, gathered, reduced, open_))
        print(f"| {ranks} | {ranks * assumed.labels:,} | {numbers} | {100 * efficiency:.0f}% |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
