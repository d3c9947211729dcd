import torch
from torch import Tensor

from mlloss_cuda import DecoupledSoftmaxLoss, decoupled_softmax_loss

from . import Case


def definition(s: Tensor, y: Tensor) -> Tensor:
    negatives = ((1 - y) * torch.exp(s)).sum()
    terms = y * torch.log(1 + negatives / torch.exp(s))
    return terms.sum() / max(1.0, float(y.sum()))


CASES = [Case("decoupled_softmax", decoupled_softmax_loss, DecoupledSoftmaxLoss, {}, (), definition)]

FLIP = (
    "decoupled_softmax",
    "decoupled_softmax.h",
    "{{m, second_sums[1] * share / sum",
    "{{m, -second_sums[1] * share / sum",
)
