import math

import torch
from torch import Tensor

from mlloss_cuda import AsymmetricLoss, asymmetric_loss

from . import Case


def definition(gamma_neg: float, gamma_pos: float, clip: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        shifted = torch.clamp(p - clip, min=0)
        up = -((1 - p) ** gamma_pos) * torch.log(p)
        down = -(shifted**gamma_neg) * torch.log(1 - shifted)
        return y * up + (1 - y) * down

    return loss


def case(gamma_neg: float, gamma_pos: float, clip: float, detached: bool = False) -> Case:
    own = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip, "detach_focal_weight": detached}
    least = math.log(clip / (1 - clip)) if clip else -math.inf
    parameters = (gamma_neg, gamma_pos, clip, float(detached), least)
    of = definition(gamma_neg, gamma_pos, clip)
    return Case("asymmetric", asymmetric_loss, AsymmetricLoss, own, parameters, of, derivative=not detached)


CASES = [case(4.0, 1.0, 0.05), case(0.5, 0.0, 0.0), case(2.0, 0.5, 0.6, detached=True), case(0.0, 3.0, 0.2)]

FLIP = ("asymmetric", "asymmetric.h", "positive ? -slope : slope", "positive ? slope : slope")
