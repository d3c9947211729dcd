"""Multi-label losses as fused kernels for PyTorch: forward and backward in one pass over the logits."""

from ._backends import BackendStatus, backends, use_backend
from ._version import __version__
from .losses import DiceLoss, SigmoidFocalLoss, ZLPRLoss, dice_loss, sigmoid_focal_loss, zlpr_loss
from .targets import CSRTargets

__all__ = [
    "BackendStatus",
    "CSRTargets",
    "DiceLoss",
    "SigmoidFocalLoss",
    "ZLPRLoss",
    "__version__",
    "backends",
    "dice_loss",
    "sigmoid_focal_loss",
    "use_backend",
    "zlpr_loss",
]
