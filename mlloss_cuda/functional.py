"""The functions alone, for those who import them as ``F``."""

from .losses import (
    asymmetric_loss,
    bce_with_logits_loss,
    compound_loss,
    decoupled_softmax_loss,
    dice_loss,
    jaccard_loss,
    lsep_loss,
    margin_bce_loss,
    multi_positive_cross_entropy_loss,
    sigmoid_focal_loss,
    squared_hinge_loss,
    symmetric_kl_loss,
    tversky_loss,
    zlpr_loss,
)

__all__ = [
    "asymmetric_loss",
    "bce_with_logits_loss",
    "compound_loss",
    "decoupled_softmax_loss",
    "dice_loss",
    "jaccard_loss",
    "lsep_loss",
    "margin_bce_loss",
    "multi_positive_cross_entropy_loss",
    "sigmoid_focal_loss",
    "squared_hinge_loss",
    "symmetric_kl_loss",
    "tversky_loss",
    "zlpr_loss",
]
