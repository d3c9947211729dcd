import torch
from torch import Tensor

from mlloss_cuda import LSEPLoss, lsep_loss

from . import Case


def definition(s: Tensor, y: Tensor) -> Tensor:
    pairs = y[:, None] * (1 - y)[None, :] * torch.exp(s[None, :] - s[:, None])
    return torch.log(1 + pairs.sum())


CASES = [Case("lsep", lsep_loss, LSEPLoss, {}, (), definition)]

FLIP = ("lsep", "lsep.h", "value = (up ? pairs : A(0)) + log1p", "value = (up ? pairs : A(0)) - log1p")
