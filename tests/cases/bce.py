import torch
from torch import Tensor

from mlloss_cuda import BCEWithLogitsLoss, bce_with_logits_loss

from . import Case


def definition(q: float):
    def loss(s: Tensor, y: Tensor) -> Tensor:
        p = 1 / (1 + torch.exp(-s))
        return -q * y * torch.log(p) - (1 - y) * torch.log(1 - p)

    return loss


def case(pos_weight: float | None) -> Case:
    q = 1.0 if pos_weight is None else pos_weight
    own = {"pos_weight": pos_weight}
    return Case("bce_with_logits", bce_with_logits_loss, BCEWithLogitsLoss, own, (q,), definition(q))


CASES = [case(None), case(3.0)]

FLIP = ("bce_with_logits", "bce.h", "positive ? -q * l.sigmoid", "positive ? q * l.sigmoid")
