"""What is compared with, imported once: their warnings are their own, and torchvision needs help on a CPU."""

from __future__ import annotations

import warnings

from bench.formulas import torchvision_ops as _torchvision_ops

__all__ = ["classification", "monai_losses", "retrieval", "timm_losses", "torchvision_ops"]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchvision_ops = _torchvision_ops()  # first: others import torchvision
    from monai import losses as monai_losses
    from timm import loss as timm_losses
    from torchmetrics.functional import classification, retrieval
