"""The losses of Project-MONAI/MONAI 1.6.1, ``monai/losses``, of several labels a voxel, fused.

They serve logits, ``sigmoid=True`` or ``softmax=True``, and 0/1 targets ``[B, C, *spatial]`` or class numbers
``[B, 1, *spatial]``. Another activation, and inputs that are probabilities already, are a ValueError: of a probability
of exactly 0 or 1, which has no finite logit, the gradient would be another.
"""

from ._monai_focal import FocalLoss
from ._monai_overlap import DiceLoss, GeneralizedDiceLoss, TverskyLoss
from ._monai_sums import DiceCELoss, DiceFocalLoss

__all__ = ["DiceCELoss", "DiceFocalLoss", "DiceLoss", "FocalLoss", "GeneralizedDiceLoss", "TverskyLoss"]
