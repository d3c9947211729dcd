import torch
from torch import Tensor

from mlloss_cuda import ZLPRLoss, zlpr_loss

from . import Case


def definition(threshold: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        s = s - threshold
        return torch.log(1 + (y * torch.exp(-s)).sum()) + torch.log(1 + ((1 - y) * torch.exp(s)).sum())

    return loss


CASES = [
    Case("zlpr", zlpr_loss, ZLPRLoss, {}, (), definition(0.0), path=True),
    Case("zlpr", zlpr_loss, ZLPRLoss, {"threshold": 0.75}, (), definition(0.75), path=True),
]

FLIP = ("zlpr", "two_sides.h", "c[2], c[3] * factor}}", "c[2], -c[3] * factor}}")
