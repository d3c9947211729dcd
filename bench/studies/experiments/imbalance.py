"""Rare labels one by one, 1 positive to about 11.5 negatives: plain, weighted and truncated BCE, and focal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import BCEWithLogitsLoss, CSRTargets, MarginBCELoss, SigmoidFocalLoss
from mlloss_cuda.data import MultiLabelData
from mlloss_cuda.losses._module import LossModule
from mlloss_cuda.metrics import f1_score

from .store import Store
from .study import SEEDS, split
from .training import RATES, Part, Task, logits_of, train

__all__ = ["RATIO", "TITLES", "auc", "best_rate", "run"]

RATIO = 11.5
EPOCHS, LABELS = 10, 3
CRITERIA = ("F1", "AUC")  # a rate is chosen by F1 for decisions, and by AUC for the order
TITLES = {
    "bce": "BCE",
    "bce-weighted": "BCE, weighted",
    "margin-0.6": "margin BCE, margin 0.6",
    "margin-0.8": "margin BCE, margin 0.8",
    "focal": "focal, gamma 2",
    "focal-0.25": "focal, gamma 2, alpha 0.25",
}


def losses(ratio: float) -> dict[str, LossModule]:
    """Return the losses that are compared."""
    return {
        "bce": BCEWithLogitsLoss(),
        "bce-weighted": BCEWithLogitsLoss(pos_weight=ratio),
        "margin-0.6": MarginBCELoss(margin=0.6),
        "margin-0.8": MarginBCELoss(margin=0.8),
        "focal": SigmoidFocalLoss(alpha=None),
        "focal-0.25": SigmoidFocalLoss(),
    }


def auc(logits: Tensor, y: Tensor) -> float:
    """Return the share of pairs of a positive and a negative that are in the right order; a tie counts half."""
    positive, negative = logits[y].double(), logits[~y].double().sort().values
    below = torch.searchsorted(negative, positive) + torch.searchsorted(negative, positive, right=True)
    return (below.double().mean() / (2 * len(negative))).item()


def nearest_labels(data: MultiLabelData) -> list[int]:
    """Return the labels whose ratios of negatives to positives are nearest to 11.5."""
    positives = torch.bincount(data.targets.col_indices, minlength=data.targets.num_labels)
    return ((len(data) - positives) / positives.clamp(min=1) - RATIO).abs().argsort(stable=True)[:LABELS].tolist()


def best_rate(tuned: Mapping[float, dict[str, float]], criterion: str) -> float:
    """Return the best rate, by the metrics on the validation rows."""
    return max(tuned, key=lambda rate: tuned[rate][criterion])


def score(logits: Tensor, y: Tensor) -> dict[str, float]:
    """Compute the metrics of decisions at the threshold of training, a logit of 0, and of the order."""
    found = logits > 0
    sides = [(found[side] == y[side]).double().mean().item() for side in (y, ~y)]
    values = {
        "accuracy": (found == y).double().mean().item(),
        "balanced accuracy": sum(sides) / 2,
        "recall": sides[0],
        "F1": f1_score(CSRTargets.from_dense(found[:, None]), CSRTargets.from_dense(y[:, None])).item(),
        "AUC": auc(logits, y),
    }
    return {name: round(value, 5) for name, value in values.items()}


def run(store: Store, name: str, data: MultiLabelData, seeds: Sequence[int] = SEEDS) -> None:
    """Make every run that has no record."""
    whole = split(name, data)
    for label in nearest_labels(data):
        title = str(label) if data.label_names is None else data.label_names[label]
        parts = (Part(part.x, part.y[:, label : label + 1]) for part in (whole.train, whole.valid, whole.test))
        _one_label(store, Task(f"{name}, {title}", *parts), seeds)


def _one_label(store: Store, task: Task, seeds: Sequence[int]) -> None:
    positives, rows = int(task.train.y.sum()), len(task.train.y)
    ratio = (rows - positives) / positives
    about = {"ratio": round(ratio, 2), "rows": rows, "positive": round(task.test.y.double().mean().item(), 5)}
    for loss, module in losses(ratio).items():
        tuned = {}
        for rate in RATES:
            tuned[rate] = _run(store, task, loss, module, rate, 0, True, about)["metrics"]
        for rate in dict.fromkeys(best_rate(tuned, criterion) for criterion in CRITERIA):
            for seed in seeds:
                _run(store, task, loss, module, rate, seed, False, about)


def _run(
    store: Store, task: Task, loss: str, module: LossModule, rate: float, seed: int, tuning: bool, about: dict[str, Any]
) -> dict[str, Any]:
    key = {"part": "imbalance", "set": task.name, "loss": loss, "seed": seed, "rate": rate, "tuning": tuning}
    found = store.find(key)
    if found is None:
        start = time.perf_counter()
        model = train(lambda model, x, y: module(model(x), y), task.train, rate, EPOCHS, seed)
        part = task.valid if tuning else task.test
        metrics = score(logits_of(model, part)[:, 0], part.y[:, 0])
        found = store.add(key, {**about, "seconds": round(time.perf_counter() - start, 2), "metrics": metrics})
    return found
