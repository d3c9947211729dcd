"""The multi-label losses of huggingface/pytorch-image-models, ``timm/loss`` (1.0), fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _validation as check
from ..losses import bce_with_logits_loss
from ..targets import CSRTargets
from .asl import AsymmetricLossOptimized

__all__ = ["AsymmetricLossMultiLabel", "BinaryCrossEntropy"]

REDUCTIONS = ("mean", "sum", "none")


class AsymmetricLossMultiLabel(AsymmetricLossOptimized):
    """ASL as timm has it: summed, the powers differentiated. See :class:`mlloss_cuda.compat.asl.AsymmetricLoss`.

    Example:
        >>> from mlloss_cuda.compat.timm import AsymmetricLossMultiLabel
        >>> AsymmetricLossMultiLabel()(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        tensor(0.0157)
    """


class BinaryCrossEntropy(nn.Module):
    """timm's BCE: class indices become smoothed one-hot targets, dense targets may be cut at a threshold.

    As in the original, ``smoothing`` is for class indices ``[B]`` alone; dense targets are taken to be smoothed
    already. The one-hot targets are never made.

    Args:
        smoothing: e in [0, 1): ``1 - e + e / L`` and ``e / L``. Default 0.1.
        target_threshold: targets above it are 1, others 0. Default None. For class indices it must lie
            between the two values of ``smoothing``.
        weight: ``[L]``, >= 0, or None.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.
        sum_classes: sum over labels, mean over the rest, whatever ``reduction`` is. Default False.
        pos_weight: a number, a 0-d tensor or ``[L]``, >= 0, or None.

    Raises:
        ValueError: a value is out of range, or a shape is not one of these.

    Example:
        >>> from mlloss_cuda.compat.timm import BinaryCrossEntropy
        >>> BinaryCrossEntropy()(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
        tensor(0.2951)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        smoothing: float = 0.1,
        target_threshold: float | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        sum_classes: bool = False,
        pos_weight: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.smoothing = check.check_number("smoothing", smoothing, 0.0, 1.0, open_high=True)
        self.target_threshold = target_threshold
        self.reduction = "none" if sum_classes else check.check_choice("reduction", reduction, REDUCTIONS)
        self.sum_classes = sum_classes
        if pos_weight is not None and not isinstance(pos_weight, Tensor):
            pos_weight = torch.tensor(check.check_number("pos_weight", pos_weight, 0.0))
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, x: Tensor, target: Tensor | CSRTargets) -> Tensor:
        """The loss of logits ``x`` ``[B, L]`` and class indices ``[B]``, or targets of the logits' shape."""
        x = check.check_logits(x)
        smoothing = 0.0
        if isinstance(target, Tensor) and target.layout == torch.strided:
            if target.shape != x.shape:
                target, smoothing = self._one_hot(x, target)
            elif self.target_threshold is not None:
                target = target > self.target_threshold
        pos_weight = self.pos_weight
        if pos_weight is not None and pos_weight.dim() == 0:
            pos_weight = pos_weight.expand(x.shape[-1])
        return bce_with_logits_loss(
            x,
            target,
            weight=self.weight,
            pos_weight=pos_weight,
            label_smoothing=smoothing,
            reduction="batchmean" if self.sum_classes else self.reduction,
        )

    def _one_hot(self, x: Tensor, target: Tensor) -> tuple[CSRTargets, float]:
        """Class indices as sparse targets, and how far they are smoothed."""
        rows, labels = x.shape[0], x.shape[-1]
        if x.dim() != 2 or target.numel() != rows:
            raise ValueError(
                f"target: expected the logits' shape {tuple(x.shape)}, or class indices for logits [B, L], "
                f"got {tuple(target.shape)}"
            )
        crow = torch.arange(rows + 1, device=target.device)
        sparse = CSRTargets(crow, target.reshape(rows).long(), labels)
        if self.target_threshold is None:
            return sparse, self.smoothing
        low = self.smoothing / labels
        high = 1 - self.smoothing + low
        if not low <= self.target_threshold < high:
            raise ValueError(
                f"target_threshold: expected in [{low:g}, {high:g}) for class indices with "
                f"smoothing={self.smoothing:g}, got {self.target_threshold!r}"
            )
        return sparse, 0.0
