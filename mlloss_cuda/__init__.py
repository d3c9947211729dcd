"""Multi-label losses as fused kernels for PyTorch: forward and backward in one pass over the logits."""

from ._backends import BackendStatus, backends, use_backend
from ._version import __version__
from .losses import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    DiceLoss,
    LSEPLoss,
    MarginBCELoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    ZLPRLoss,
    asymmetric_loss,
    bce_with_logits_loss,
    dice_loss,
    lsep_loss,
    margin_bce_loss,
    multi_positive_cross_entropy_loss,
    sigmoid_focal_loss,
    squared_hinge_loss,
    zlpr_loss,
)
from .targets import CSRTargets

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BackendStatus",
    "CSRTargets",
    "DiceLoss",
    "LSEPLoss",
    "MarginBCELoss",
    "MultiPositiveCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SquaredHingeLoss",
    "ZLPRLoss",
    "__version__",
    "asymmetric_loss",
    "backends",
    "bce_with_logits_loss",
    "dice_loss",
    "lsep_loss",
    "margin_bce_loss",
    "multi_positive_cross_entropy_loss",
    "sigmoid_focal_loss",
    "squared_hinge_loss",
    "use_backend",
    "zlpr_loss",
]
