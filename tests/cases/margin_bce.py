import math

import torch
from torch import Tensor

from mlloss_cuda import MarginBCELoss, margin_bce_loss

from . import Case


def definition(margin: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        up = torch.where(p < margin, -torch.log(p), 0.0)
        down = torch.where(1 - p < margin, -torch.log(1 - p), 0.0)
        return y * up + (1 - y) * down

    return loss


def case(margin: float) -> Case:
    logit = math.log(margin / (1 - margin))
    return Case("margin_bce", margin_bce_loss, MarginBCELoss, {"margin": margin}, (logit,), definition(margin))


CASES = [case(0.8), case(0.55)]

FLIP = ("margin_bce", "margin_bce.h", "positive ? r.gradient : -r.gradient", "positive ? r.gradient : r.gradient")
