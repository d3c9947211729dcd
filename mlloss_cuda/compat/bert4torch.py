"""The multi-label losses of Tongjilibo/bert4torch, ``bert4torch/losses.py`` (0.6.2), fused: ZLPR."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..losses import zlpr_loss
from ..targets import CSRTargets
from ._soft import SoftTargets

__all__ = ["MultilabelCategoricalCrossentropy", "SparseMultilabelCategoricalCrossentropy"]


class MultilabelCategoricalCrossentropy(SoftTargets):
    """ZLPR, the mean over rows; predict ``y_pred > 0``.

    For 0/1 targets it has the original's definition, and also works in float16, where the original's 1e12 is
    infinite. A target between 0 and 1 gives soft ZLPR, while the original scales the logits; such targets give a
    warning, on the CPU, once.

    Example:
        >>> from mlloss_cuda.compat.bert4torch import MultilabelCategoricalCrossentropy
        >>> MultilabelCategoricalCrossentropy()(torch.tensor([[2.0, -1.0, -3.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.4759)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def forward(self, y_pred: Tensor, y_true: Tensor | CSRTargets) -> Tensor:
        """Return the mean loss of logits and 0/1 targets ``[..., L]``."""
        self._warn_of_soft_targets(y_true, "which scales the logits")
        return zlpr_loss(y_pred, y_true)


class SparseMultilabelCategoricalCrossentropy(nn.Module):
    """ZLPR of the positives' indices: the losses of the rows, not reduced.

    The original subtracts the positives from the sum over all labels, and keeps ``epsilon`` if that cancels;
    here positives are not part of that sum, so the two agree only as far as the original is exact. Indices that occur
    twice count once. The call does not wait for the GPU, and works under ``torch.compile(fullgraph=True)``.

    Args:
        mask_zero: label 0 is padding, and is excluded. Default False: every index is a positive.
        epsilon: accepted without effect.

    Example:
        >>> from mlloss_cuda.compat.bert4torch import SparseMultilabelCategoricalCrossentropy
        >>> SparseMultilabelCategoricalCrossentropy()(torch.tensor([[2.0, -1.0, -3.0]]), torch.tensor([[0]]))
        tensor([0.4759])
    """

    def __init__(self, mask_zero: bool = False, epsilon: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_zero = mask_zero
        self.epsilon = epsilon

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the losses ``[...]`` of logits ``[..., L]`` and the positives' indices ``[..., k]``."""
        if not isinstance(y_true, Tensor) or y_true.shape[:-1] != y_pred.shape[:-1]:
            raise ValueError(f"y_true: expected indices of shape {(*y_pred.shape[:-1], 'k')}, with the logits' rows")
        labels = y_pred.shape[-1]
        padding = 0 if self.mask_zero else -1
        # A size of -1 would be ambiguous without indices.
        rows = y_true.reshape(math.prod(y_true.shape[:-1]), y_true.shape[-1])
        targets = CSRTargets.from_padded(rows, labels, padding)
        weight = None
        if self.mask_zero:
            # A label of weight 0 is excluded.
            weight = torch.ones(labels, device=y_pred.device)
            weight[0] = 0
        return zlpr_loss(y_pred, targets, weight=weight, reduction="none")
