"""The linear layer and its loss together, without the logits ever standing in memory."""

from .module import LinearLoss, linear_loss
from .plan import LinearPlan
from .topk import TopK
from .updates import FusedAdam, FusedSGD, FusedUpdate

__all__ = ["FusedAdam", "FusedSGD", "FusedUpdate", "LinearLoss", "LinearPlan", "TopK", "linear_loss"]
