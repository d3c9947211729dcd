"""The demo's corpus with tens of thousands of labels: precision over time of ZLPR, BCE, and label embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo import corpus, model
from mlloss_cuda.data import label_embeddings

from .store import Store

__all__ = ["LOSSES", "RATES", "run"]

EMBEDDINGS = ", label embeddings"
LOSSES = ("BCE", "ZLPR", f"BCE{EMBEDDINGS}", f"ZLPR{EMBEDDINGS}")
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # rates of the last layer
SEEDS = (1, 2, 3)
EPOCHS, TUNING_EPOCHS, POINTS = 4, 2, 12
LABELS = 30_000
CACHE = Path("build/experiments")


def run(store: Store, labels: int = LABELS, seeds: Sequence[int] = SEEDS) -> None:
    """Make every run that has no record."""
    packages = corpus.find_packages(None)
    functions, _ = corpus.load(packages, CACHE)
    split = corpus.split(functions, labels, labels, 0)
    data = model.prepare(functions, split, torch.device("cpu"))
    tuning = _without_held_out(data, functions.file_of_row)
    about = {
        "labels": data.num_labels,
        "rows": len(data.train),
        "held_out": len(data.held_out),
        "packages": ", ".join(f"{package.name} {package.version}" for package in packages),
    }
    best = {}
    for loss in LOSSES:
        tuned = {rate: _run(store, tuning, loss, rate, 0, about)["final"]["5"] for rate in RATES}
        best[loss] = max(tuned, key=lambda each: tuned[each])
    # The losses take turns, so that other load on the machine hits all alike.
    for seed in seeds:
        for loss in LOSSES:
            _run(store, data, loss, best[loss], seed, about)


def _without_held_out(data: model.Data, file_of_row: Any) -> model.Data:
    """Hold out a tenth of the training files in place of the files that are reported."""
    held = torch.from_numpy(np.asarray(file_of_row) % 10 == 3)[data.train]
    return dataclasses.replace(data, train=data.train[~held], held_out=data.train[held])


def _run(store: Store, data: model.Data, loss: str, rate: float, seed: int, about: dict[str, Any]) -> dict[str, Any]:
    tuning = seed == 0
    key = {"part": "names", "set": "names", "loss": loss, "seed": seed, "rate": rate, "tuning": tuning}
    found = store.find(key)
    if found is not None:
        differ = [name for name in about if found.get(name) != about[name]]
        if differ:
            difference = f"{differ[0]} {found.get(differ[0])} there, {about[differ[0]]} here"
            raise SystemExit(
                f"{store.path}: its runs are of another corpus ({difference}): --results names another file"
            )
        return found
    plain = loss.removesuffix(EMBEDDINGS)
    _, history = model.train(
        model.LOSSES[plain](),
        data,
        epochs=TUNING_EPOCHS if tuning else EPOCHS,
        seconds=600,
        seed=seed,
        curve_points=POINTS,
        head_rate=rate,
        head_weight=None if loss == plain else label_embeddings(data.targets[data.train], model.DIM),
    )
    if history.cut_short:
        raise SystemExit(f"{loss}: {history.epochs:.1f} epochs took 600 s: take fewer labels")
    seconds = [round(each, 2) for each in history.curve_seconds]
    curve = [{str(k): round(value, 3) for k, value in point.items()} for point in history.curve]
    final = {str(k): round(value, 3) for k, value in history.final.items()}
    print(f"names {loss} seed {seed} rate {rate:g}: {seconds[-1]:.0f} s, precision at 1, 3, 5: {final}", flush=True)
    return store.add(key, {**about, "seconds": seconds[-1], "times": seconds, "curve": curve, "final": final})
