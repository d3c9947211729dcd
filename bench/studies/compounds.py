"""``python -m bench.studies.compounds``: sums of losses beside their terms alone, forward + backward, on the CPU.

Each sum as a multiple of its most expensive term, and of its terms' sum, in one run, everything in turn. Twice: as
PyTorch comes, on all cores; and on one thread with an allocator that gives memory back to nobody, where
arithmetic is all that is left.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import subprocess
import sys
import time

from .. import keep_memory

SUMS = (("zlpr", "focal", "dice"), ("zlpr", "bce", "dice"), ("zlpr", "asymmetric", "dice"), ("zlpr", "dice"))


def measure(rows: int, labels: int, rounds: int) -> dict[str, float]:
    """Medians in milliseconds."""
    import torch

    from mlloss_cuda import (
        AsymmetricLoss,
        BCEWithLogitsLoss,
        CSRTargets,
        DiceLoss,
        SigmoidFocalLoss,
        ZLPRLoss,
        compound_loss,
    )

    alone = {
        "zlpr": ZLPRLoss(reduction="batchmean"),
        "focal": SigmoidFocalLoss(reduction="batchmean"),
        "dice": DiceLoss(reduction="batchmean"),
        "bce": BCEWithLogitsLoss(reduction="batchmean"),
        "asymmetric": AsymmetricLoss(reduction="batchmean"),
    }
    targets = CSRTargets.from_lists([random.sample(range(labels), 5) for _ in range(rows)], num_labels=labels)
    logits = (2 * torch.randn(rows, labels) - 4).requires_grad_()

    def run(terms: tuple[str, ...]) -> float:
        logits.grad = None
        start = time.perf_counter()
        if len(terms) == 1:
            value = alone[terms[0]](logits, targets)
        else:
            value = compound_loss(logits, targets, [(1.0, alone[term]) for term in terms], reduction="batchmean")
        value.backward()
        return (time.perf_counter() - start) * 1e3

    ways = [(name,) for name in alone] + list(SUMS)
    times: dict[tuple[str, ...], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        random.shuffle(ways)
        gc.collect()
        for way in ways:
            run(way)  # leaves the caches and the allocator as this way does
            times[way].append(run(way))
    return {" + ".join(way): statistics.median(own) for way, own in times.items()}


def report(title: str, ms: dict[str, float]) -> None:
    """One table."""
    print(f"\n{title}\n")
    print("| sum | over its most expensive term | over the sum of its terms |\n|---|---|---|")
    for way in map(" + ".join, SUMS):
        terms = [ms[name] for name in way.split(" + ")]
        print(f"| {way} | {ms[way] / max(terms):.2f} | {ms[way] / sum(terms):.2f} |")


def main() -> None:
    """Both tables, each from a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.compounds", description=__doc__)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--part", choices=("plain", "arithmetic"))
    given = parser.parse_args()
    if given.part is None:
        for part in ("plain", "arithmetic"):
            command = [sys.executable, "-m", "bench.studies.compounds", "--part", part]
            subprocess.run([*command, f"--labels={given.labels}", f"--rounds={given.rounds}"], check=True)
        return
    import torch

    shape = f"x {given.labels:,} float32, CSR targets, forward + backward"
    if given.part == "plain":
        report(
            f"As PyTorch comes, {torch.get_num_threads()} threads, 64 {shape}", measure(64, given.labels, given.rounds)
        )
        return
    keep_memory()
    torch.set_num_threads(1)
    report(f"One thread, warm allocator, 16 {shape}", measure(16, given.labels, given.rounds))


if __name__ == "__main__":
    main()
