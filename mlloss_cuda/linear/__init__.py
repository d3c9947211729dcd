"""A linear layer fused with its loss: the whole matrix of logits is not stored."""

from .module import LinearLoss, linear_loss
from .plan import LinearPlan
from .topk import TopK
from .updates import FusedAdam, FusedSGD, FusedUpdate

__all__ = ["FusedAdam", "FusedSGD", "FusedUpdate", "LinearLoss", "LinearPlan", "TopK", "linear_loss"]
