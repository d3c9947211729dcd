"""The functions alone, for those who import them as ``F``."""

from .losses import dice_loss, sigmoid_focal_loss, zlpr_loss

__all__ = ["dice_loss", "sigmoid_focal_loss", "zlpr_loss"]
