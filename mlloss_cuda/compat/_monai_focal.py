"""MONAI's focal loss, with sigmoids or a softmax, fused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _validation as check
from ..losses import sigmoid_focal_loss
from ._monai_inputs import ChannelLoss, Inputs, softmax_log_odds

__all__ = ["SOFT_TARGETS", "FocalLoss"]

# The original's definition for targets between 0 and 1.
SOFT_TARGETS = "which takes sigmoid(-x (2 y - 1)) as the probability of an error"


class FocalLoss(ChannelLoss):
    """MONAI's focal loss of logits, with independent sigmoids or a softmax over the channels.

    For 0/1 targets it has MONAI's definition. Targets between 0 and 1 have the definition of
    :func:`mlloss_cuda.sigmoid_focal_loss`, while MONAI takes ``sigmoid(-x (2 y - 1))`` as the probability of an error;
    such targets give a warning, on the CPU, once.

    Args:
        include_background: False drops channel 0, before the softmax. Default True.
        to_onehot_y: the target is class numbers ``[B, 1, *spatial]``. Default False.
        gamma: >= 0. Default 2.0.
        alpha: in [0, 1], or None. A number is the weight of positives, and ``1 - alpha`` that of negatives; with
            ``use_softmax`` it is the weight of every class but the background, which has ``1 - alpha``. A sequence
            of numbers >= 0 gives the weight of each class's positives, and negatives have weight 1; without
            ``use_softmax`` this takes two passes. Default None.
        weight: a number, or one for each class that remains, >= 0. Default None.
        reduction: ``"mean"`` over all elements (default), ``"none"``, or ``"sum"``: as in the original, the sum over
            items and channels of the *mean* over spatial dimensions (over all elements if there are none).
        use_softmax: the probabilities are a softmax over the channels. Default False.
        ignore_index: voxels of this class are ignored; with a one-hot target that has no such class, voxels of no
            class are. As in the original, ``"mean"`` then divides by the number of voxels that remain, and not by
            the number of their elements in all channels. Default None.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: shapes do not fit, or a class is out of range (on the CPU; on other devices the loss is NaN).

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/focal_loss.py``.

    Example:
        >>> from mlloss_cuda.compat.monai import FocalLoss
        >>> FocalLoss()(torch.tensor([[[1.0, 0.5], [1.0, 0.0]]]), torch.tensor([[[1, 0], [0, 1]]]))
        tensor(0.3188)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        weight: Sequence[float] | float | Tensor | None = None,
        reduction: Any = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background, to_onehot_y, reduction, weight, ignore_index)
        self.gamma, self.use_softmax = gamma, use_softmax
        self.alpha: float | Tensor | None
        if alpha is None or isinstance(alpha, (int, float)):
            self.alpha = None if alpha is None else float(alpha)
        else:
            self.alpha = torch.as_tensor(alpha)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._inputs(input, target, 2)
        self._warn_of_soft_targets(inputs.targets, SOFT_TARGETS)
        if self.use_softmax:
            # With a softmax only positives have a loss.
            value = self._pass(inputs, 1.0, self._softmax_alpha(inputs.logits.shape[1]))
        elif isinstance(self.alpha, Tensor) and self.alpha.dim() > 0:
            alpha = self._checked_alpha(self.alpha, inputs.logits.shape[1])
            value = self._pass(inputs, 1.0, alpha) + self._pass(inputs, 0.0, None)
        else:
            value = self._pass(inputs, self._number(), None)
        return value.reshape(inputs.logits.shape) if self.reduction == "none" else value

    def _number(self) -> float | None:
        """Return an ``alpha`` that is one number for all classes, or None."""
        return float(self.alpha) if isinstance(self.alpha, Tensor) else self.alpha

    def _pass(self, inputs: Inputs, alpha: float | None, channel_alpha: Tensor | None) -> Tensor:
        """Run the fused loss with a row for each item and channel, whose weight includes ``channel_alpha`` ``[C]``."""
        batch, channels, *spatial = inputs.logits.shape
        shape = (batch * channels, math.prod(spatial))
        weight, class_weight = channel_alpha, self._channel_weights(channels)
        if class_weight is not None:
            class_weight = class_weight.to(inputs.logits.device)
            weight = class_weight if weight is None else weight.to(class_weight.device) * class_weight
        rows = None if weight is None else weight.to(inputs.logits.device).repeat(batch)
        reduction, normalizer, item_weights = self._reduced(inputs)
        if item_weights is not None:
            item_weights = item_weights.repeat_interleave(channels)
            rows = item_weights if rows is None else rows * item_weights
        logits = softmax_log_odds(inputs.logits) if self.use_softmax else inputs.logits
        return sigmoid_focal_loss(
            logits.reshape(shape),
            inputs.targets.reshape(shape),
            alpha=alpha,
            gamma=self.gamma,
            sample_weight=rows,
            ignore_index=inputs.ignore_index,
            normalizer=normalizer,
            reduction=reduction,
        )

    def _reduced(self, inputs: Inputs) -> tuple[str, float | Tensor | None, Tensor | None]:
        """Return the fused loss's reduction, its normalizer, and the items' weights ``[B]``."""
        shape, mask = inputs.logits.shape, inputs.mask
        if self.reduction == "none" or (self.reduction == "mean" and mask is None):
            return self.reduction, None, None
        if mask is None:
            return "sum", max(math.prod(shape[2:]) if len(shape) > 2 else inputs.logits.numel(), 1), None
        least = torch.finfo(torch.float32).eps
        if self.reduction == "mean" or len(shape) == 2:
            return "sum", mask.sum().float().clamp(min=least), None
        return "sum", None, 1 / mask.flatten(1).sum(1).float().clamp(min=least)

    def _channel_weights(self, channels: int) -> Tensor | None:
        if channels == 1 and self.class_weight is not None and self.class_weight.dim() > 0:
            raise ValueError("weight: expected a number for a single channel, got one for each class")
        return super()._channel_weights(channels)

    def _checked_alpha(self, alpha: Tensor, channels: int) -> Tensor:
        if tuple(alpha.shape) != (channels,):
            raise ValueError(
                f"alpha: expected a number or one for each of {channels} classes, got {tuple(alpha.shape)}"
            )
        return alpha

    def _softmax_alpha(self, channels: int) -> Tensor | None:
        if isinstance(self.alpha, Tensor) and self.alpha.dim() > 0:
            return self._checked_alpha(self.alpha, channels)
        alpha = self._number()
        if alpha is None:
            return None
        if not self.include_background:
            warnings.warn("`include_background=False`, scalar `alpha` ignored when using softmax.", stacklevel=3)
            return None
        check.check_number("alpha", alpha, 0.0, 1.0)
        return torch.tensor([1 - alpha] + [alpha] * (channels - 1))
