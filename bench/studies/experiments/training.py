"""One small model, trained with any loss, which all comparisons share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    DiceLoss,
    LSEPLoss,
    SigmoidFocalLoss,
    SymmetricKLLoss,
    ZLPRLoss,
    compound_loss,
    fit_thresholds,
)
from mlloss_cuda.losses._module import LossModule

__all__ = [
    "BATCH",
    "HIDDEN",
    "LOSSES",
    "RATES",
    "Objective",
    "Part",
    "Recipe",
    "Task",
    "logits_of",
    "predicted",
    "train",
]

HIDDEN, DROPOUT, BATCH = 128, 0.3, 64
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """Features and bool targets of some rows."""

    x: Tensor
    y: Tensor

    def take(self, rows: Tensor) -> Part:
        """Return some of the rows."""
        return Part(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Task:
    """Rows for training, for choosing a rate and for the report; no row is in two of them."""

    name: str
    train: Part
    valid: Part
    test: Part


@dataclass(frozen=True)
class Recipe:
    """A loss as it is used in training, and the module whose rule predicts; None: logits above 0 are predicted."""

    title: str
    objective: Objective
    rule: LossModule | None = None
    fitted: bool = False  # the loss ranks only: a threshold is fitted on the validation rows


def _plain(title: str, loss: LossModule, fitted: bool = False) -> Recipe:
    return Recipe(title, lambda model, x, y: loss(model(x), y), None if fitted else loss, fitted)


def _sum(title: str, *terms: tuple[float, LossModule]) -> Recipe:
    return Recipe(title, lambda model, x, y: compound_loss(model(x), y, terms, reduction="batchmean"))


def _r_drop(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Compute R-Drop (Liang et al., 2021) at a coefficient of 1: half of the divergence in both directions."""
    zlpr, divergence = ZLPRLoss(reduction="batchmean"), SymmetricKLLoss(reduction="batchmean")
    first, second = model(x), model(x)
    return (zlpr(first, y) + zlpr(second, y)) / 2 + divergence(first, second) / 2


LOSSES: dict[str, Recipe] = {
    "bce": _plain("BCE", BCEWithLogitsLoss(reduction="batchmean")),
    "focal": _plain("focal, gamma 2", SigmoidFocalLoss(alpha=None, reduction="batchmean")),
    "dice": _plain("Dice", DiceLoss(reduction="batchmean")),
    "dice-squared": _plain("Dice, squared", DiceLoss(squared=True, reduction="batchmean")),
    "lsep": _plain("LSEP", LSEPLoss(reduction="batchmean"), fitted=True),
    "zlpr": _plain("ZLPR", ZLPRLoss(reduction="batchmean")),
    "zlpr-smoothed": _plain("soft ZLPR, smoothing 0.1", ZLPRLoss(label_smoothing=0.1, reduction="batchmean")),
    "zlpr-r-drop": Recipe("ZLPR, R-Drop", _r_drop),
    "asymmetric": _plain("asymmetric", AsymmetricLoss(reduction="batchmean")),
    "zlpr+dice": _sum("ZLPR + Dice", (1.0, ZLPRLoss()), (1.0, DiceLoss())),
    "bce+dice": _sum("BCE + Dice", (1.0, BCEWithLogitsLoss()), (1.0, DiceLoss())),
}


def train(objective: Objective, data: Part, rate: float, epochs: int, seed: int) -> nn.Module:
    """Train by AdamW with a rate that falls linearly to 0."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(data.x.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, data.y.shape[1])
    )
    # Adam's eps is below the gradients of every loss, so that Adam divides their scale out.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, eps=1e-12, fused=True)
    steps = epochs * (len(data.x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        order = torch.randperm(len(data.x))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            batch = data.take(rows)
            optimizer.zero_grad()
            objective(model, batch.x, batch.y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def logits_of(model: nn.Module, data: Part) -> Tensor:
    """Return the logits of every row."""
    return torch.cat([model(x) for x in data.x.split(1024)])


def predicted(recipe: Recipe, logits: Tensor, held_out: Tensor, targets: Tensor) -> Tensor:
    """Return the predicted labels, by the loss's own rule or by a threshold fitted on held-out rows."""
    if recipe.fitted:
        return logits > fit_thresholds(held_out, targets, "f1", "micro")
    return logits > 0 if recipe.rule is None else recipe.rule.predict(logits)
