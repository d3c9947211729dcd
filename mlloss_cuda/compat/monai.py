"""The losses of Project-MONAI/MONAI 1.6.1, ``monai/losses``, for several labels per voxel, fused.

They take logits, with ``sigmoid=True`` or ``softmax=True``, and 0/1 targets ``[B, C, *spatial]`` or class numbers
``[B, 1, *spatial]``. Other activations and inputs that are probabilities raise a ValueError: a probability of exactly
0 or 1 has no finite logit, so its gradient would differ from the original's.
"""

from ._monai_focal import FocalLoss
from ._monai_overlap import DiceLoss, GeneralizedDiceLoss, TverskyLoss
from ._monai_sums import DiceCELoss, DiceFocalLoss

__all__ = ["DiceCELoss", "DiceFocalLoss", "DiceLoss", "FocalLoss", "GeneralizedDiceLoss", "TverskyLoss"]
