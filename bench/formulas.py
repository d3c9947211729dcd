"""The losses as papers and other packages write them: without this package's options and checks.

Each takes the targets that suit it best: bool where it masks, floating where it multiplies. What PyTorch has itself is
PyTorch's own.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MASKING", "PACKAGED", "PUBLISHED", "monai", "torchvision", "torchvision_ops"]

Loss = Callable[[Tensor, Any], Tensor]


# ---- rows ----


def _log_sum_exp(x: Tensor, where: Tensor) -> Tensor:
    return x.masked_fill(~where, -torch.inf).logsumexp(1)


def _zlpr(logits: Tensor, targets: Tensor) -> Tensor:
    zero = logits.new_zeros(logits.shape[0], 1)
    negatives = torch.cat([logits.masked_fill(targets, -torch.inf), zero], 1)
    positives = torch.cat([(-logits).masked_fill(~targets, -torch.inf), zero], 1)
    return (negatives.logsumexp(1) + positives.logsumexp(1)).mean()


def _lsep(logits: Tensor, targets: Tensor) -> Tensor:
    return F.softplus(_log_sum_exp(logits, ~targets) + _log_sum_exp(-logits, targets)).mean()


def _decoupled_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    negatives = _log_sum_exp(logits, ~targets)[:, None]
    each = torch.where(targets, F.softplus(negatives - logits), 0.0)
    return (each.sum(1) / targets.sum(1)).mean()


# ---- labels ----


def _focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * ce * (1 - p_t) ** gamma).mean()


def _margin_bce(logits: Tensor, targets: Tensor, margin: float = 0.8) -> Tensor:
    p = logits.sigmoid()
    p_t = torch.where(targets > 0, p, 1 - p)
    return (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (p_t < margin)).mean()


def _asymmetric(
    logits: Tensor, targets: Tensor, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05
) -> Tensor:
    p = logits.sigmoid()
    q = (1 - p + clip).clamp(max=1)
    ce = targets * p.clamp(min=1e-8).log() + (1 - targets) * q.clamp(min=1e-8).log()
    p_t = p * targets + q * (1 - targets)
    return -(ce * (1 - p_t) ** (gamma_pos * targets + gamma_neg * (1 - targets))).mean()


# ---- overlap ----


def _dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    p = logits.sigmoid()
    overlap = 2 * (p * targets).sum(1) + smooth
    return (1 - overlap / (p.sum(1) + targets.sum(1) + smooth)).mean()


def _tversky(logits: Tensor, targets: Tensor, alpha: float = 0.5, beta: float = 0.5, smooth: float = 1.0) -> Tensor:
    p = logits.sigmoid()
    both = (p * targets).sum(1)
    wrong = alpha * (p * (1 - targets)).sum(1) + beta * ((1 - p) * targets).sum(1)
    return (1 - (both + smooth) / (both + wrong + smooth)).mean()


def _jaccard(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    p = logits.sigmoid()
    both = (p * targets).sum(1)
    return (1 - (both + smooth) / (p.sum(1) + targets.sum(1) - both + smooth)).mean()


# ---- two passes, and sums ----


def _symmetric_kl(logits: Tensor, other: Tensor) -> Tensor:
    return ((logits.sigmoid() - other.sigmoid()) * (logits - other)).mean()


def _zlpr_and_dice(logits: Tensor, targets: Tensor) -> Tensor:
    return _zlpr(logits, targets) + _dice(logits, targets.to(logits.dtype))


def _zlpr_focal_and_dice(logits: Tensor, targets: Tensor) -> Tensor:
    numbers = targets.to(logits.dtype)
    return _zlpr(logits, targets) + logits.shape[1] * _focal(logits, numbers) + _dice(logits, numbers)


MASKING: dict[str, Loss] = {
    "zlpr": _zlpr,
    "lsep": _lsep,
    "decoupled_softmax": _decoupled_softmax,
    "zlpr+dice": _zlpr_and_dice,
    "zlpr+focal+dice": _zlpr_focal_and_dice,
}

PUBLISHED: dict[str, Loss] = {
    **MASKING,
    "asymmetric": _asymmetric,
    "bce": F.binary_cross_entropy_with_logits,
    "dice": _dice,
    "focal": _focal,
    "jaccard": _jaccard,
    "margin_bce": _margin_bce,
    "multi_positive_cross_entropy": F.cross_entropy,  # which sums a row's targets too
    "symmetric_kl": _symmetric_kl,
    "tversky": _tversky,
}


# ---- packages, where they are installed; floating targets ----

PACKAGED = {"torchvision": ("focal",), "monai": ("focal", "dice", "jaccard", "tversky")}

_kept: list[torch.library.Library] = []  # their ops go when these do


@functools.cache
def torchvision_ops() -> Any:
    """``torchvision.ops``. The package index has torchvision's library for CUDA alone; beside a torch without CUDA its
    import misses two ops, which are defined here and never called.
    """
    if torch.version.cuda is None and not importlib.metadata.version("torchvision").endswith("+cpu"):
        ops = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(ops)
    return importlib.import_module("torchvision.ops")


def torchvision(name: str) -> Loss | None:
    """torchvision's loss of that name; None where it has none.

    Raises:
        ImportError: it is not installed.
    """
    if name not in PACKAGED["torchvision"]:
        return None
    focal = torchvision_ops().sigmoid_focal_loss
    return lambda logits, targets: focal(logits, targets, 0.25, 2.0, reduction="mean")


def monai(name: str) -> Loss | None:
    """MONAI's loss of that name, a row of ours being a channel of theirs; None where it has none.

    Raises:
        ImportError: it is not installed.
    """
    if name not in PACKAGED["monai"]:
        return None
    losses = importlib.import_module("monai.losses")
    made = {
        "focal": lambda: losses.FocalLoss(alpha=0.25, gamma=2.0),
        "dice": lambda: losses.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0),
        # They smooth twice the intersection over twice the union.
        "jaccard": lambda: losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2.0, smooth_dr=2.0),
        "tversky": lambda: losses.TverskyLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0),
    }[name]()
    return lambda logits, targets: made(logits[:, None], targets[:, None])
