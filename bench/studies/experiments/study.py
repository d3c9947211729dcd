"""Eleven losses on real multi-label sets: the same model, a rate tuned for each, five seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import CSRTargets
from mlloss_cuda.data import MultiLabelData, read_arff
from mlloss_cuda.metrics import (
    average_precision,
    f1_score,
    ndcg_at_k,
    precision_at_k,
    ranking_loss,
    subset_accuracy,
)

from .store import Store
from .training import BATCH, LOSSES, RATES, Part, Recipe, Task, logits_of, predicted, train

__all__ = ["CRITERIA", "SEEDS", "chosen", "load", "read_sets", "run", "score", "split"]

SEEDS = (1, 2, 3, 4, 5)  # the rate is tuned with seed 0
STEPS = 1200  # steps of every run, rounded to whole epochs
EPOCHS = (8, 60)  # the least and the most epochs


def read_sets(given: Sequence[str]) -> dict[str, MultiLabelData]:
    """Return name and rows of each ``NAME=FILE.arff[+FILE.arff][@LABELS.xml]``."""
    sets = {}
    for text in given:
        name, _, files = text.partition("=")
        files, _, labels = files.partition("@")
        if not files:
            raise ValueError(f"expected NAME=FILE.arff[+FILE.arff][@LABELS.xml], got {text!r}")
        sets[name] = load([Path(file) for file in files.split("+")], Path(labels) if labels else None)
    return sets


def load(files: Sequence[Path], labels: Path | None) -> MultiLabelData:
    """Return one set from one file, or from the rows of several files in order."""
    import scipy.sparse

    parts = [read_arff(file, labels) for file in files]
    features = scipy.sparse.vstack([part.features for part in parts], format="csr")
    rows = [row.nonzero()[:, 0].tolist() for part in parts for row in part.targets.to_dense()]
    first = parts[0]
    return MultiLabelData(
        features, CSRTargets.from_lists(rows, first.targets.num_labels), first.feature_names, first.label_names
    )


def split(name: str, data: MultiLabelData) -> Task:
    """Split rows: 60% train, 15% choose a rate, 25% are reported; the same for every loss and seed."""
    x, y = torch.from_numpy(data.features.toarray()), data.targets.to_dense()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    first, second = int(0.6 * len(x)), int(0.75 * len(x))
    train_, valid, test = (Part(x[rows], y[rows]) for rows in order.tensor_split((first, second)))
    if not bool(((x == 0) | (x == 1)).all()):
        mean, deviation = train_.x.mean(0), train_.x.std(0).clamp(min=1e-6)
        train_, valid, test = (Part((part.x - mean) / deviation, part.y) for part in (train_, valid, test))
    return Task(name, train_, valid, test)


def score(
    recipe: Recipe, logits: Tensor, y: Tensor, held_out: Tensor, held_out_y: Tensor, brief: bool = False
) -> dict[str, float]:
    """Compute every metric, or with ``brief`` those by which a rate is chosen."""
    sparse = CSRTargets.from_dense(y)
    found = CSRTargets.from_dense(predicted(recipe, logits, held_out, held_out_y))
    top = logits.topk(min(5, logits.shape[1])).indices
    values = {
        "subset accuracy": subset_accuracy(found, sparse),
        "F1 samples": f1_score(found, sparse, "samples"),
        "AP samples": average_precision(logits, y, "samples"),
    }
    if not brief:
        values |= {
            "F1 micro": f1_score(found, sparse, "micro"),
            "F1 macro": f1_score(found, sparse, "macro"),
            "precision at 1": precision_at_k(top, sparse, 1),
            "precision at 3": precision_at_k(top, sparse, 3),
            "nDCG at 5": ndcg_at_k(top, sparse, top.shape[1]),
            "ranking loss": ranking_loss(logits, y),
            "AP macro": average_precision(logits, y, "macro"),
        }
    return {name: round(value.item(), 5) for name, value in values.items()}


def _mean(metrics: dict[str, float]) -> float:
    return (metrics["subset accuracy"] + metrics["F1 samples"] + metrics["AP samples"]) / 3


# A rate is chosen by metrics of decisions and of the ranking together, or by the one metric of a paper's claim.
CRITERIA: dict[str, Callable[[dict[str, float]], tuple[float, ...]]] = {
    "all": lambda metrics: (_mean(metrics),),
    "subset accuracy": lambda metrics: (metrics["subset accuracy"], _mean(metrics)),
}


def chosen(metrics: Mapping[float, dict[str, float]], criterion: str) -> float:
    """Return the best rate, by the metrics on the validation rows."""
    return max(metrics, key=lambda rate: CRITERIA[criterion](metrics[rate]))


def once(task: Task, recipe: Recipe, rate: float, seed: int, tuning: bool) -> dict[str, Any]:
    """Train, and evaluate on the validation rows while the rate is tuned, otherwise on the test rows."""
    per_epoch = max(len(task.train.x) // BATCH, 1)
    epochs = min(max(round(STEPS / per_epoch), EPOCHS[0]), EPOCHS[1])
    start = time.perf_counter()
    model = train(recipe.objective, task.train, rate, epochs, seed)
    seconds = time.perf_counter() - start
    held_out = logits_of(model, task.valid)
    part = task.valid if tuning else task.test
    logits = held_out if tuning else logits_of(model, task.test)
    metrics = score(recipe, logits, part.y, held_out, task.valid.y, brief=tuning)
    return {"epochs": epochs, "seconds": round(seconds, 2), "metrics": metrics}


def run(store: Store, sets: dict[str, MultiLabelData], seeds: Sequence[int] = SEEDS) -> None:
    """Make every run that has no record."""
    for name, data in sets.items():
        task = split(name, data)
        for loss, recipe in LOSSES.items():
            tuned = {}
            for rate in RATES:
                key = {"part": "losses", "set": name, "loss": loss, "seed": 0, "rate": rate, "tuning": True}
                tuned[rate] = _run(store, key, task, recipe)["metrics"]
            for rate in dict.fromkeys(chosen(tuned, criterion) for criterion in CRITERIA):
                for seed in seeds:
                    key = {"part": "losses", "set": name, "loss": loss, "seed": seed, "rate": rate, "tuning": False}
                    _run(store, key, task, recipe)


def _run(store: Store, key: dict[str, Any], task: Task, recipe: Recipe) -> dict[str, Any]:
    found = store.find(key)
    if found is None:
        found = store.add(key, once(task, recipe, key["rate"], key["seed"], key["tuning"]))
        print(
            f"{key['set']:10} {key['loss']:14} seed {key['seed']} rate {key['rate']:g}: {found['seconds']:.1f} s",
            flush=True,
        )
    return found
