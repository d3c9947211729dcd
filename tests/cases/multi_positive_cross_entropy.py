import torch
from torch import Tensor

from mlloss_cuda import MultiPositiveCrossEntropyLoss, multi_positive_cross_entropy_loss

from . import Case


def definition(s: Tensor, y: Tensor) -> Tensor:
    return -(y * torch.log(torch.exp(s) / torch.exp(s).sum())).sum()


CASES = [
    Case(
        "multi_positive_cross_entropy",
        multi_positive_cross_entropy_loss,
        MultiPositiveCrossEntropyLoss,
        {},
        (),
        definition,
    )
]

FLIP = ("multi_positive_cross_entropy", "multi_positive_cross_entropy.h", "share - e.w * e.y", "share + e.w * e.y")
