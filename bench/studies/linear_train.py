"""``python -m bench.studies.linear_train``: do bfloat16 weights train that step inside backward?

The data are the demo's: identifiers that a function's body uses, from its name and docstring. The model is a bag of
words in float32 and a ``LinearLoss`` whose weights are float32, or bfloat16 in each rounding. The table compares loss
and precision at 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from demo import corpus, model
from mlloss_cuda import FusedAdam, FusedSGD, LinearLoss, ZLPRLoss
from mlloss_cuda.linear import FusedUpdate

from ..markdown import head_lines, row_line

CACHE = Path("build/linear_train")
UPDATES: dict[str, Callable[[str], FusedUpdate]] = {
    "FusedAdam": lambda rounding: FusedAdam(3e-3, eps=1e-15, rounding=rounding, seed=0),
    "FusedSGD, momentum": lambda rounding: FusedSGD(0.5, momentum=0.9, rounding=rounding, seed=0),
}
WEIGHTS = ("float32", "stochastic", "kahan", "nearest")


def load(files: int, labels: int) -> model.Data:
    """Return a part of the demo's data."""
    functions, _ = corpus.load(corpus.find_packages(None), CACHE, max_files=files)
    return model.prepare(functions, corpus.split(functions, labels, 100, 0), torch.device("cpu"))


def run(data: model.Data, update: FusedUpdate, dtype: torch.dtype, epochs: int) -> tuple[float, float]:
    """Train; return the mean loss of the last epoch, and precision at 1 on the held-out rows."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(corpus.BUCKETS, model.DIM, mode="sum", sparse=True)
    nn.init.normal_(bag.weight, std=0.1)
    head = LinearLoss(model.DIM, data.num_labels, ZLPRLoss(), fused_update=update, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    head.to(dtype)  # all runs begin with the same weights
    words = torch.optim.SparseAdam(list(bag.parameters()), lr=0.05)
    steps = epochs * (len(data.train) // model.BATCH)
    schedules = [torch.optim.lr_scheduler.LinearLR(each, 1, 0, steps) for each in (words, update)]

    def features(rows: Tensor) -> Tensor:
        col, offsets, weights = data.words.take(rows)
        return bag(col, offsets, per_sample_weights=weights).to(dtype)

    losses: list[float] = []
    for epoch in range(epochs):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(epoch))
        losses.clear()
        for i in range(len(data.train) // model.BATCH):
            rows = data.train[order[i * model.BATCH : (i + 1) * model.BATCH]]
            loss = head(features(rows), data.targets[rows])
            words.zero_grad()
            loss.backward()
            words.step()
            for schedule in schedules:
                schedule.step()
            losses.append(loss.item())
    with torch.no_grad():
        first = head.topk(features(data.held_out), 1).indices
    right = data.targets[data.held_out].to_dense().gather(1, first).float().mean().item()
    return sum(losses) / len(losses), right


def main(given: list[str] | None = None) -> int:
    """Print the table, row by row as runs end."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.linear_train", description=__doc__)
    parser.add_argument("--files", type=int, default=400, help="number of files of the demo's corpus")
    parser.add_argument("--labels", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(given)
    data = load(options.files, options.labels)
    print(f"{len(data.train):,} functions to learn from, {data.num_labels:,} labels, {options.epochs} epochs, ZLPR")
    print(head_lines(("update", "weights", "last loss", "precision at 1")))
    for name, make in UPDATES.items():
        for weights in WEIGHTS:
            rounding = "nearest" if weights == "float32" else weights
            dtype = torch.float32 if weights == "float32" else torch.bfloat16
            loss, right = run(data, make(rounding), dtype, options.epochs)
            print(row_line((name, weights, f"{loss:.4f}", f"{right:.1%}")), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
