import torch
from torch import Tensor

from mlloss_cuda import SigmoidFocalLoss, sigmoid_focal_loss

from . import Case


def definition(alpha: float | None, gamma: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        ce = -(y * torch.log(p) + (1 - y) * torch.log(1 - p))
        miss = p * (1 - y) + (1 - p) * y
        weight = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
        return weight * miss**gamma * ce

    return loss


def case(alpha: float | None, gamma: float) -> Case:
    own = {"alpha": alpha, "gamma": gamma}
    weights = (1.0, 1.0) if alpha is None else (1 - alpha, alpha)
    return Case(
        "sigmoid_focal",
        sigmoid_focal_loss,
        SigmoidFocalLoss,
        own,
        (gamma, *weights),
        definition(alpha, gamma),
        path=True,
    )


CASES = [case(0.25, 2.0), case(None, 0.0), case(0.7, 0.5), case(None, 3.5)]

FLIP = ("sigmoid_focal", "focal.h", "positive ? -slope : slope", "positive ? slope : slope")
