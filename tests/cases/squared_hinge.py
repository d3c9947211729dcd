import torch
from torch import Tensor

from mlloss_cuda import SquaredHingeLoss, squared_hinge_loss

from . import Case


def definition(s: Tensor, y: Tensor) -> Tensor:
    up, down = torch.clamp(1 - s, min=0), torch.clamp(1 + s, min=0)
    return y * up**2 + (1 - y) * down**2


CASES = [Case("squared_hinge", squared_hinge_loss, SquaredHingeLoss, {}, (), definition)]

FLIP = ("squared_hinge", "squared_hinge.h", "positive ? -lacking : lacking", "positive ? lacking : lacking")
