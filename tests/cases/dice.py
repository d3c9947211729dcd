import torch
from torch import Tensor

from mlloss_cuda import DiceLoss, dice_loss

from . import Case

FULL = (1.0, 1.0, 1.0, 0.0)  # the parameters of Overlap that only Tversky or `log` changes


def definition(smooth: float, power: int, log: bool = False, focus: float = 0.0):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        p = (1 - p) ** focus * p
        score = (2 * (p * y).sum() + smooth) / ((p**power).sum() + (y**power).sum() + smooth)
        return -torch.log(score) if log else 1 - score

    return loss


def adjusting(average: str, focus: float, squared: bool = False) -> Case:
    own = {"average": average, "self_adjusting_alpha": focus, "squared": squared}
    parameters = (1.0, float(squared), *FULL, focus)
    of_row = definition(1.0, 2 if squared else 1, focus=focus) if average == "samples" else None
    return Case("self_adjusting_dice", dice_loss, DiceLoss, own, parameters, of_row)


CASES = [
    Case("dice", dice_loss, DiceLoss, {}, (1.0, 0.0, *FULL), definition(1.0, 1), path=True),
    Case(
        "dice",
        dice_loss,
        DiceLoss,
        {"squared": True, "smooth": 0.1},
        (0.1, 1.0, *FULL),
        definition(0.1, 2),
        path=True,
    ),
    Case("dice", dice_loss, DiceLoss, {"average": "macro", "smooth": 0.0}, (0.0, 0.0, *FULL), path=True),
    Case("dice", dice_loss, DiceLoss, {"average": "micro", "squared": True}, (1.0, 1.0, *FULL), path=True),
    Case("dice", dice_loss, DiceLoss, {"log": True}, (1.0, 0.0, 1.0, 1.0, 1.0, 1.0), definition(1.0, 1, log=True)),
    adjusting("samples", 1.0),
    adjusting("samples", 0.3, squared=True),
    adjusting("macro", 0.5),
    adjusting("micro", 2.0),
]

FLIP = ("dice", "overlap.h", "+ b * stats.sums[2]", "- b * stats.sums[2]")
