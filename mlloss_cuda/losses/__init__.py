"""Every loss: one module each, listed here by hand so that type checkers see them."""

from .dice import DiceLoss, dice_loss
from .focal import SigmoidFocalLoss, sigmoid_focal_loss
from .zlpr import ZLPRLoss, zlpr_loss

__all__ = ["DiceLoss", "SigmoidFocalLoss", "ZLPRLoss", "dice_loss", "sigmoid_focal_loss", "zlpr_loss"]
