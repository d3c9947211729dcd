"""Project-MONAI's Dice, Tversky and focal losses for several labels a voxel, ``monai/losses`` (1.5), fused.

What multi-label training uses: logits (``sigmoid=True``) and 0/1 targets ``[B, C, *spatial]``. Softmax, other
activations, and inputs that are probabilities already are a ValueError.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _ops
from .. import _validation as check
from ..losses import dice_loss, jaccard_loss, sigmoid_focal_loss, tversky_loss

__all__ = ["DiceLoss", "FocalLoss", "TverskyLoss"]

REDUCTIONS = ("mean", "sum", "none")
# A logit whose sigmoid is exactly 1, and its slope 0.
_CERTAIN = 1000.0


class _Loss(nn.Module):
    """What the three share: channels, one-hot targets, class weights."""

    class_weight: Tensor | None

    def __init__(self, include_background: bool, to_onehot_y: bool, reduction: Any, weight: Any = None) -> None:
        super().__init__()
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        # A str, or a member of MONAI's enum of them.
        self.reduction = check.check_choice("reduction", getattr(reduction, "value", reduction), REDUCTIONS)
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))

    def _channels(self, input: Tensor, target: Tensor, least: int) -> tuple[Tensor, Tensor]:
        """Input and target, one-hot and without background as asked."""
        input = check.check_logits(input)
        if input.dim() < least:
            raise ValueError(
                f"input: expected at least {least} dimensions, [B, C, *spatial], got shape {tuple(input.shape)}"
            )
        channels = input.shape[1]
        for name, asked in (("to_onehot_y=True", self.to_onehot_y), ("include_background=False", self._no_background)):
            if asked and channels == 1:
                warnings.warn(f"single channel prediction, `{name}` ignored.", stacklevel=3)
        if self.to_onehot_y and channels > 1:
            classes = torch.arange(channels, device=target.device)
            target = target == classes.reshape(-1, *[1] * (input.dim() - 2))
        if self._no_background and channels > 1:
            input, target = input[:, 1:], target[:, 1:]
        if target.shape != input.shape:
            raise ValueError(
                f"target: expected shape {tuple(input.shape)}, as the input has, got {tuple(target.shape)}"
            )
        return input, target

    @property
    def _no_background(self) -> bool:
        return not self.include_background

    def _weights(self, input: Tensor, batches: int) -> Tensor | None:
        """A weight for each of ``batches`` times C rows."""
        channels, weight = input.shape[1], self.class_weight
        if weight is None or channels == 1:
            return None
        if weight.dim() > 0 and tuple(weight.shape) != (channels,):
            raise ValueError(
                f"weight: expected a number or one for each of {channels} classes "
                f"(without the background if it is left out), got shape {tuple(weight.shape)}"
            )
        return weight.to(input.device).expand(channels).repeat(batches)


class _OverlapLoss(_Loss):
    """A group is a channel of an item, or with ``batch`` a channel of the whole batch."""

    def __init__(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[..., Any] | None,
        reduction: Any,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
        weight: Any = None,
    ) -> None:
        super().__init__(include_background, to_onehot_y, reduction, weight)
        if softmax or other_act is not None:
            name = "softmax" if softmax else "other_act"
            raise ValueError(f"{name}: expected sigmoid=True alone, for the loss is of logits of independent labels")
        if not sigmoid:
            raise ValueError("sigmoid: expected True, for the loss is of logits; leave the activation out of the model")
        self.sigmoid = sigmoid
        self.smooth_nr = check.check_number("smooth_nr", smooth_nr, 0.0)
        self.smooth_dr = check.check_number("smooth_dr", smooth_dr, self.smooth_nr)
        self.batch = batch

    def _groups(self, input: Tensor, target: Tensor, false_positive: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Logits and targets ``[groups, elements]``, and weights.

        The fused loss smooths numerator and denominator alike. What the denominator is to have more is one more
        element, a false positive, of which a whole one adds ``false_positive`` there.
        """
        groups = input.shape[1] if self.batch else input.shape[0] * input.shape[1]
        x, y = (t.transpose(0, 1) if self.batch else t for t in (input, target))
        x, y = x.reshape(groups, -1), y.reshape(groups, -1)
        weights: dict[str, Any] = {"sample_weight": self._weights(input, 1 if self.batch else input.shape[0])}
        if self.smooth_dr == self.smooth_nr:
            return x, y, weights
        x, y = F.pad(x, (0, 1), value=_CERTAIN), F.pad(y, (0, 1))
        weight = torch.ones(x.shape[1], dtype=_ops.compute_dtype(x), device=x.device)
        weight[-1] = (self.smooth_dr - self.smooth_nr) / false_positive
        return x, y, {**weights, "weight": weight}


class DiceLoss(_OverlapLoss):
    """MONAI's Dice loss of logits: the mean over items and channels of ``1 - (2 I + c) / (sum p + sum y + c)``.

    Args:
        include_background: False leaves channel 0 out. Default True.
        to_onehot_y: the target is class indices ``[B, 1, *spatial]``. Default False.
        sigmoid: must be True; ``softmax`` and ``other_act`` must be left.
        squared_pred: squares in the denominator. Default False; not together with ``jaccard``.
        jaccard: intersection over union in the place of Dice. Default False.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C, 1, ...]``, ``[C, 1, ...]`` with ``batch``.
        smooth_nr: >= 0. Default 1e-5.
        smooth_dr: >= ``smooth_nr``; above it, the logits are copied once. Default 1e-5.
        batch: sum over the batch before dividing. Default False.
        weight: a number, or one for each class that is left, >= 0. Default None.
        soft_label: only together with ``squared_pred``, where it makes no difference; with 0/1 targets it
            never makes one. Default False.

    Raises:
        ValueError: an option is not served, or shapes do not fit (an AssertionError in the original).

    Example:
        >>> from mlloss_cuda.compat.monai import DiceLoss
        >>> input, target = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1, 0], [1, 1]]]])
        >>> DiceLoss(sigmoid=True)(input, target)
        tensor(0.3076)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[..., Any] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Any = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Sequence[float] | float | Tensor | None = None,
        soft_label: bool = False,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch, weight
        )
        if squared_pred and jaccard:
            raise ValueError("jaccard: expected False with squared_pred=True, for the fused loss has no squares there")
        _check_soft(soft_label and not squared_pred)
        self.squared_pred, self.jaccard = squared_pred, jaccard

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and targets ``[B, C, *spatial]``."""
        input, target = self._channels(input, target, 3)
        # MONAI's constants stand beside twice the overlap.
        logits, y, weights = self._groups(input, target, 2.0 if self.jaccard else 1.0)
        if self.jaccard:
            value = jaccard_loss(logits, y, smooth=self.smooth_nr / 2, reduction=self.reduction, **weights)
        else:
            value = dice_loss(
                logits, y, smooth=self.smooth_nr, squared=self.squared_pred, reduction=self.reduction, **weights
            )
        if self.reduction != "none":
            return value
        groups = input.shape[1:2] if self.batch else input.shape[:2]
        return value.reshape(*groups, *[1] * (input.dim() - 2))


class TverskyLoss(_OverlapLoss):
    """MONAI's Tversky loss of logits: the mean over items and channels of ``1 - (I + c) / (I + a FP + b FN + c)``.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act, smooth_nr, smooth_dr, batch: as in
            :class:`DiceLoss`.
        alpha: >= 0, the weight of false positives; above 0 where ``smooth_dr`` is not ``smooth_nr``. Default 0.5.
        beta: >= 0, the weight of false negatives. Default 0.5.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C]``, ``[C]`` with ``batch``.
        soft_label: must be False; with 0/1 targets it makes no difference.

    Raises:
        ValueError: an option is not served, or shapes do not fit (an AssertionError in the original).

    Example:
        >>> from mlloss_cuda.compat.monai import TverskyLoss
        >>> input, target = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1, 0], [1, 1]]]])
        >>> TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)(input, target)
        tensor(0.3589)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[..., Any] | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Any = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
    ) -> None:
        super().__init__(
            include_background, to_onehot_y, sigmoid, softmax, other_act, reduction, smooth_nr, smooth_dr, batch
        )
        _check_soft(soft_label)
        check.check_number("alpha", alpha, 0.0, open_low=smooth_dr != smooth_nr)
        self.alpha, self.beta = alpha, check.check_number("beta", beta, 0.0)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and targets ``[B, C, *spatial]``."""
        input, target = self._channels(input, target, 3)
        logits, y, weights = self._groups(input, target, self.alpha)
        value = tversky_loss(
            logits, y, alpha=self.alpha, beta=self.beta, smooth=self.smooth_nr, reduction=self.reduction, **weights
        )
        return value if self.reduction != "none" or self.batch else value.reshape(input.shape[:2])


class FocalLoss(_Loss):
    """MONAI's focal loss of logits, for 0/1 targets.

    Args:
        include_background: False leaves channel 0 out. Default True.
        to_onehot_y: the target is class indices ``[B, 1, *spatial]``. Default False.
        gamma: >= 0. Default 2.0.
        alpha: in [0, 1], the positives' weight, or None. Default None.
        weight: a number, or one for each class that is left, >= 0. Default None.
        reduction: ``"mean"`` over all elements (default), ``"none"``, or ``"sum"``: as in the original, over items
            and channels of the *mean* over spatial dimensions (over everything where there are none).
        use_softmax: must be False.

    Raises:
        ValueError: an option is not served, or shapes do not fit.

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
        alpha: float | None = None,
        weight: Sequence[float] | float | Tensor | None = None,
        reduction: Any = "mean",
        use_softmax: bool = False,
    ) -> None:
        super().__init__(include_background, to_onehot_y, reduction, weight)
        if use_softmax:
            raise ValueError("use_softmax: expected False, for the loss is of logits of independent labels")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and targets ``[B, C, *spatial]``."""
        input, target = self._channels(input, target, 2)
        rows = input.shape[0] * input.shape[1]
        averaged = math.prod(input.shape[2:]) if input.dim() > 2 else input.numel()
        value = sigmoid_focal_loss(
            input.reshape(rows, -1),
            target.reshape(rows, -1),
            alpha=self.alpha,
            gamma=self.gamma,
            sample_weight=self._weights(input, input.shape[0]),
            normalizer=max(averaged, 1) if self.reduction == "sum" else None,
            reduction=self.reduction,
        )
        return value.reshape(input.shape) if self.reduction == "none" else value


def _check_soft(soft_label: bool) -> None:
    if soft_label:
        raise ValueError("soft_label: expected False, which is the same for 0/1 targets; probabilities are not served")
