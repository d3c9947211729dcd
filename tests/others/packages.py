"""What is compared with, imported once: their warnings are their own, and torchvision needs help on a CPU."""

from __future__ import annotations

import warnings

import torch

__all__ = ["classification", "monai_losses", "retrieval", "timm_losses", "torchvision_ops"]


def _without_torchvisions_library() -> list[torch.library.Library]:
    """The package index has torchvision's library for CUDA alone, and without it two ops that its import describes."""
    if torch.version.cuda is not None:
        return []
    ops = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return [ops]


_kept = _without_torchvisions_library()  # their ops go when these do

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai import losses as monai_losses
    from timm import loss as timm_losses
    from torchmetrics.functional import classification, retrieval  # which imports torchvision
    from torchvision import ops as torchvision_ops
