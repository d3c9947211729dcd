from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import JaccardLoss, TverskyLoss, jaccard_loss, tversky_loss

from . import Case


def definition(alpha: float, beta: float, gamma: float, smooth: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        hit, false, missed = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
        return (1 - (hit + smooth) / (hit + alpha * false + beta * missed + smooth)) ** gamma

    return loss


def tversky(alpha: float, beta: float, gamma: float = 1.0, smooth: float = 1.0, average: str = "samples") -> Case:
    own: dict[str, Any] = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth, "average": average}
    parameters = (2 * smooth, 0.0, 2 * alpha, 2 * beta, gamma, 0.0)
    of_row = definition(alpha, beta, gamma, smooth) if average == "samples" else None
    return Case("dice", tversky_loss, TverskyLoss, own, parameters, of_row)


def jaccard(average: str, smooth: float) -> Case:
    own: dict[str, Any] = {"average": average, "smooth": smooth}
    of_row = definition(1.0, 1.0, 1.0, smooth) if average == "samples" else None
    return Case("dice", jaccard_loss, JaccardLoss, own, (2 * smooth, 0.0, 2.0, 2.0, 1.0, 0.0), of_row)


CASES = [
    tversky(0.3, 0.7),
    tversky(0.7, 0.3, gamma=0.75),
    tversky(0.2, 0.9, gamma=2.0, average="macro"),
    tversky(0.5, 0.5, smooth=0.1, average="micro"),
    jaccard("samples", 1.0),
    jaccard("macro", 0.5),
    jaccard("micro", 1.0),
]
