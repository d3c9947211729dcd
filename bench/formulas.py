"""The losses as papers and other packages write them, without this package's options and checks.

Benchmarks and the demo compare with them. Each formula takes the targets that suit it best: bool if it masks, floating
if it multiplies. A loss that PyTorch has is PyTorch's own.
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

__all__ = [
    "MASKING",
    "PACKAGED",
    "PUBLISHED",
    "bce",
    "dice",
    "focal",
    "monai",
    "torchvision",
    "torchvision_ops",
    "zlpr_by_softplus",
]

Loss = Callable[[Tensor, Any], Tensor]


# ---- rows ----


def _log_sum_exp(x: Tensor, where: Tensor) -> Tensor:
    return x.masked_fill(~where, -torch.inf).logsumexp(1)


def _zlpr(logits: Tensor, targets: Tensor) -> Tensor:
    zero = logits.new_zeros(logits.shape[0], 1)
    negatives = torch.cat([logits.masked_fill(targets, -torch.inf), zero], 1)
    positives = torch.cat([(-logits).masked_fill(~targets, -torch.inf), zero], 1)
    return (negatives.logsumexp(1) + positives.logsumexp(1)).mean()


def zlpr_by_softplus(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute ZLPR without concatenating a zero: log(1 + sum of exp) is softplus(logsumexp). It is faster."""
    return (F.softplus(_log_sum_exp(logits, ~targets)) + F.softplus(_log_sum_exp(-logits, targets))).mean()


def _lsep(logits: Tensor, targets: Tensor) -> Tensor:
    return F.softplus(_log_sum_exp(logits, ~targets) + _log_sum_exp(-logits, targets)).mean()


def _decoupled_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    negatives = _log_sum_exp(logits, ~targets)[:, None]
    each = torch.where(targets, F.softplus(negatives - logits), 0.0)
    return (each.sum(1) / targets.sum(1)).mean()


# ---- labels ----


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute PyTorch's BCE: the sum over labels, the mean over rows."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Compute torchvision's focal loss without alpha: the sum over labels, the mean over rows."""
    return _focal_terms(logits, targets, gamma).sum() / len(logits)


def _focal_terms(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    return ce * (1 - p_t) ** gamma


def _focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * _focal_terms(logits, targets, gamma)).mean()


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


def dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Compute the Dice loss of each row, and the mean over rows."""
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
    return _zlpr(logits, targets) + dice(logits, targets.to(logits.dtype))


def _zlpr_focal_and_dice(logits: Tensor, targets: Tensor) -> Tensor:
    numbers = targets.to(logits.dtype)
    return _zlpr(logits, targets) + logits.shape[1] * _focal(logits, numbers) + dice(logits, numbers)


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
    "dice": dice,
    "focal": _focal,
    "jaccard": _jaccard,
    "margin_bce": _margin_bce,
    "multi_positive_cross_entropy": F.cross_entropy,  # takes several targets a row
    "symmetric_kl": _symmetric_kl,
    "tversky": _tversky,
}


# ---- packages, if they are installed; they take floating targets ----

PACKAGED = {"torchvision": ("focal",), "monai": ("focal", "dice", "jaccard", "tversky")}

_kept: list[torch.library.Library] = []  # an op exists as long as its library


@functools.cache
def torchvision_ops() -> Any:
    """Import ``torchvision.ops``.

    PyPI's torchvision is built for CUDA: with a torch without CUDA, its import needs two ops, which are defined here
    and never called.
    """
    if torch.version.cuda is None and not importlib.metadata.version("torchvision").endswith("+cpu"):
        ops = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            ops.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(ops)
    return importlib.import_module("torchvision.ops")


def torchvision(name: str) -> Loss | None:
    """Return torchvision's loss of that name, or None if it has none.

    Raises:
        ImportError: torchvision is not installed.
    """
    if name not in PACKAGED["torchvision"]:
        return None
    focal = torchvision_ops().sigmoid_focal_loss
    return lambda logits, targets: focal(logits, targets, 0.25, 2.0, reduction="mean")


def monai(name: str) -> Loss | None:
    """Return MONAI's loss of that name, or None if it has none. A row of ours is an image of one channel there.

    Raises:
        ImportError: MONAI is not installed.
    """
    if name not in PACKAGED["monai"]:
        return None
    losses = importlib.import_module("monai.losses")
    made = {
        "focal": lambda: losses.FocalLoss(alpha=0.25, gamma=2.0),
        "dice": lambda: losses.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0),
        # MONAI smooths twice the intersection over twice the union.
        "jaccard": lambda: losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2.0, smooth_dr=2.0),
        "tversky": lambda: losses.TverskyLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0),
    }[name]()
    return lambda logits, targets: made(logits[:, None], targets[:, None])
