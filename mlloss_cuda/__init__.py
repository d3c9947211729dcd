"""Multi-label losses as fused kernels for PyTorch: forward and backward in one pass over the logits."""

from ._backends import BackendStatus, backends, use_backend
from ._version import __version__
from .balance import label_weights, prior_bias
from .compat.huggingface import hf_compute_loss
from .decisions import fit_thresholds
from .losses import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    DiceLoss,
    JaccardLoss,
    LSEPLoss,
    MarginBCELoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    TverskyLoss,
    ZLPRLoss,
    asymmetric_loss,
    bce_with_logits_loss,
    dice_loss,
    jaccard_loss,
    lsep_loss,
    margin_bce_loss,
    multi_positive_cross_entropy_loss,
    sigmoid_focal_loss,
    squared_hinge_loss,
    tversky_loss,
    zlpr_loss,
)
from .targets import CSRTargets

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BackendStatus",
    "CSRTargets",
    "DiceLoss",
    "JaccardLoss",
    "LSEPLoss",
    "MarginBCELoss",
    "MultiPositiveCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SquaredHingeLoss",
    "TverskyLoss",
    "ZLPRLoss",
    "__version__",
    "asymmetric_loss",
    "backends",
    "bce_with_logits_loss",
    "dice_loss",
    "fit_thresholds",
    "hf_compute_loss",
    "jaccard_loss",
    "label_weights",
    "lsep_loss",
    "margin_bce_loss",
    "multi_positive_cross_entropy_loss",
    "prior_bias",
    "sigmoid_focal_loss",
    "squared_hinge_loss",
    "tversky_loss",
    "use_backend",
    "zlpr_loss",
]
