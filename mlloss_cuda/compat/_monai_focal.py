"""MONAI's focal loss of sigmoids or of a softmax, fused."""

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

__all__ = ["FocalLoss"]


class FocalLoss(ChannelLoss):
    """MONAI's focal loss of logits, of independent sigmoids or of a softmax over the channels.

    For 0/1 targets it is MONAI's definition. Targets between 0 and 1 follow
    :func:`mlloss_cuda.sigmoid_focal_loss`, where MONAI takes ``sigmoid(-x (2 y - 1))`` for the chance of a miss:
    they give a warning, on the CPU, once.

    Args:
        include_background: False leaves channel 0 out, before the softmax. Default True.
        to_onehot_y: the target is class numbers ``[B, 1, *spatial]``. Default False.
        gamma: >= 0. Default 2.0.
        alpha: in [0, 1], or None. A number: the positives' weight, ``1 - alpha`` the negatives'; with
            ``use_softmax`` the weight of every class but the background, which has ``1 - alpha``. A sequence:
            >= 0, the weight of each class's positives, their negatives having 1; without ``use_softmax`` this
            takes two passes. Default None.
        weight: a number, or one for each class that is left, >= 0. Default None.
        reduction: ``"mean"`` over all elements (default), ``"none"``, or ``"sum"``: as in the original, over items
            and channels of the *mean* over spatial dimensions (over everything where there are none).
        use_softmax: the probabilities are a softmax over the channels. Default False.
        ignore_index: voxels of this class take no part; of a one-hot target, where it is no class, those of no class
            at all. ``"mean"`` then divides by the number of voxels that are left and not, as it does otherwise, by
            that of their channels too: as the original does. Default None.

    Raises:
        TypeError: an argument has another type.
        ValueError: shapes do not fit, or a class is out of range (on the CPU; elsewhere the loss is NaN then).

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
        """The loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._inputs(input, target, 2)
        self._tell_of_soft(inputs.targets, "which takes sigmoid(-x (2 y - 1)) for the chance of a miss")
        if self.use_softmax:
            # Only the positives' side of a softmax counts.
            value = self._pass(inputs, 1.0, self._softmax_alpha(inputs.logits.shape[1]))
        elif isinstance(self.alpha, Tensor) and self.alpha.dim() > 0:
            alpha = self._alpha_of_classes(self.alpha, inputs.logits.shape[1])
            value = self._pass(inputs, 1.0, alpha) + self._pass(inputs, 0.0, None)
        else:
            value = self._pass(inputs, self._number(), None)
        return value.reshape(inputs.logits.shape) if self.reduction == "none" else value

    def _number(self) -> float | None:
        """``alpha`` where it is none of the classes' own."""
        return float(self.alpha) if isinstance(self.alpha, Tensor) else self.alpha

    def _pass(self, inputs: Inputs, alpha: float | None, of_classes: Tensor | None) -> Tensor:
        """The fused loss with a row for each item and channel, whose weight has ``of_classes`` ``[C]`` in it."""
        batch, channels = inputs.logits.shape[:2]
        weight, own = of_classes, self._weight_of_classes(channels)
        if own is not None:
            own = own.to(inputs.logits.device)
            weight = own if weight is None else weight.to(own.device) * own
        rows = None if weight is None else weight.to(inputs.logits.device).repeat(batch)
        reduction, normalizer, of_items = self._reduced(inputs)
        if of_items is not None:
            of_items = of_items.repeat_interleave(channels)
            rows = of_items if rows is None else rows * of_items
        logits = softmax_log_odds(inputs.logits) if self.use_softmax else inputs.logits
        return sigmoid_focal_loss(
            logits.reshape(batch * channels, -1),
            inputs.targets.reshape(batch * channels, -1),
            alpha=alpha,
            gamma=self.gamma,
            sample_weight=rows,
            ignore_index=inputs.ignore_index,
            normalizer=normalizer,
            reduction=reduction,
        )

    def _reduced(self, inputs: Inputs) -> tuple[str, float | Tensor | None, Tensor | None]:
        """The reduction of our loss, what divides it, and the items' weights ``[B]``."""
        shape, mask = inputs.logits.shape, inputs.mask
        if self.reduction == "none" or (self.reduction == "mean" and mask is None):
            return self.reduction, None, None
        if mask is None:
            return "sum", max(math.prod(shape[2:]) if len(shape) > 2 else inputs.logits.numel(), 1), None
        least = torch.finfo(torch.float32).eps
        if self.reduction == "mean" or len(shape) == 2:
            return "sum", mask.sum().float().clamp(min=least), None
        return "sum", None, 1 / mask.flatten(1).sum(1).float().clamp(min=least)

    def _weight_of_classes(self, channels: int) -> Tensor | None:
        if channels == 1 and self.class_weight is not None and self.class_weight.dim() > 0:
            raise ValueError("weight: expected a number for a single channel, got one for each class")
        return super()._weight_of_classes(channels)

    def _alpha_of_classes(self, alpha: Tensor, channels: int) -> Tensor:
        if tuple(alpha.shape) != (channels,):
            raise ValueError(
                f"alpha: expected a number or one for each of {channels} classes, got {tuple(alpha.shape)}"
            )
        return alpha

    def _softmax_alpha(self, channels: int) -> Tensor | None:
        if isinstance(self.alpha, Tensor) and self.alpha.dim() > 0:
            return self._alpha_of_classes(self.alpha, channels)
        alpha = self._number()
        if alpha is None:
            return None
        if not self.include_background:
            warnings.warn("`include_background=False`, scalar `alpha` ignored when using softmax.", stacklevel=3)
            return None
        check.check_number("alpha", alpha, 0.0, 1.0)
        return torch.tensor([1 - alpha] + [alpha] * (channels - 1))
