"""All losses. Each has its own module; the list is explicit, so that type checkers see the names."""

from .asymmetric import AsymmetricLoss, asymmetric_loss
from .bce import BCEWithLogitsLoss, bce_with_logits_loss
from .compound import CompoundLoss, compound_loss
from .decoupled_softmax import DecoupledSoftmaxLoss, decoupled_softmax_loss
from .dice import DiceLoss, dice_loss
from .focal import SigmoidFocalLoss, sigmoid_focal_loss
from .jaccard import JaccardLoss, jaccard_loss
from .lsep import LSEPLoss, lsep_loss
from .margin_bce import MarginBCELoss, margin_bce_loss
from .multi_positive_cross_entropy import MultiPositiveCrossEntropyLoss, multi_positive_cross_entropy_loss
from .squared_hinge import SquaredHingeLoss, squared_hinge_loss
from .symmetric_kl import SymmetricKLLoss, symmetric_kl_loss
from .tversky import TverskyLoss, tversky_loss
from .zlpr import ZLPRLoss, zlpr_loss

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "CompoundLoss",
    "DecoupledSoftmaxLoss",
    "DiceLoss",
    "JaccardLoss",
    "LSEPLoss",
    "MarginBCELoss",
    "MultiPositiveCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SquaredHingeLoss",
    "SymmetricKLLoss",
    "TverskyLoss",
    "ZLPRLoss",
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
