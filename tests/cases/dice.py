import torch
from torch import Tensor

from mlloss_cuda import DiceLoss, dice_loss

from . import Case


def definition(smooth: float, power: int):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        return 1 - (2 * (p * y).sum() + smooth) / ((p**power).sum() + (y**power).sum() + smooth)

    return loss


CASES = [
    Case("dice", dice_loss, DiceLoss, {}, (1.0, 0.0), definition(1.0, 1), path=True),
    Case("dice", dice_loss, DiceLoss, {"squared": True, "smooth": 0.1}, (0.1, 1.0), definition(0.1, 2), path=True),
    Case("dice", dice_loss, DiceLoss, {"average": "macro", "smooth": 0.0}, (0.0, 0.0), path=True),
    Case("dice", dice_loss, DiceLoss, {"average": "micro", "squared": True}, (1.0, 1.0), path=True),
]
