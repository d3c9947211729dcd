"""``python -m bench.studies.compounds``: sums of losses beside their terms alone, forward + backward, on the CPU.

Each sum is a multiple of its most expensive term and of its terms' sum, in one run of interleaved rounds. There are two
tables: PyTorch's defaults on all cores; and one thread with an allocator that keeps freed memory, which leaves
arithmetic alone.
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
from ..markdown import ratio, table
from ..samples import rounds

SUMS = (("zlpr", "focal", "dice"), ("zlpr", "bce", "dice"), ("zlpr", "asymmetric", "dice"), ("zlpr", "dice"))


def measure(rows: int, labels: int, count: int) -> dict[str, float]:
    """Return the median milliseconds of each loss and sum."""
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

    every = [*((name,) for name in alone), *SUMS]
    times: dict[tuple[str, ...], list[float]] = {terms: [] for terms in every}
    for _, order in rounds(every, count):
        gc.collect()
        for terms in order:
            run(terms)  # the timed run then finds caches and allocator as this one leaves them
            times[terms].append(run(terms))
    return {" + ".join(terms): statistics.median(own) for terms, own in times.items()}


def report(title: str, ms: dict[str, float]) -> None:
    """Print one table."""
    rows = []
    for name in map(" + ".join, SUMS):
        terms = [ms[term] for term in name.split(" + ")]
        rows.append((name, ratio(ms[name] / max(terms)), ratio(ms[name] / sum(terms))))
    head = ("sum", "over its most expensive term", "over the sum of its terms")
    print(f"\n{title}\n\n{table(head, rows, padded=True)}")


def main() -> None:
    """Print both tables, each from a process of its own."""
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
        title = f"PyTorch's defaults, {torch.get_num_threads()} threads, 64 {shape}"
        report(title, measure(64, given.labels, given.rounds))
        return
    keep_memory()
    torch.set_num_threads(1)
    report(f"One thread, warm allocator, 16 {shape}", measure(16, given.labels, given.rounds))


if __name__ == "__main__":
    main()
