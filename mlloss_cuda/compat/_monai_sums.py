"""MONAI's sums of Dice and another loss, fused if both read the same logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .. import _validation as check
from ..losses import bce_with_logits_loss, compound_loss
from ..losses import dice as our_dice
from ..losses import focal as our_focal
from ..losses import jaccard as our_jaccard
from ..losses._module import LossModule
from ..losses.bce import BCEWithLogitsLoss
from ._monai_focal import SOFT_TARGETS, FocalLoss
from ._monai_inputs import Inputs
from ._monai_overlap import DiceLoss

__all__ = ["DiceCELoss", "DiceFocalLoss"]


def _fused_dice(dice: DiceLoss) -> LossModule | None:
    """Return the fused module of the same loss, whose groups are rows; None if it has no equivalent."""
    if dice.softmax or dice.smooth_dr != dice.smooth_nr or (dice.jaccard and dice.squared_pred):
        return None
    if dice.jaccard:
        return our_jaccard.JaccardLoss(smooth=dice.smooth_nr / 2)
    return our_dice.DiceLoss(smooth=dice.smooth_nr, squared=dice.squared_pred)


def _check_channels(input: Tensor, target: Tensor) -> None:
    if input.dim() != target.dim() or target.shape[1] not in (1, input.shape[1]):
        raise ValueError(
            f"target: expected the number of dimensions of the input {tuple(input.shape)}, and one channel or the same "
            f"number, got shape {tuple(target.shape)}"
        )


class DiceCELoss(nn.Module):
    """MONAI's weighted sum of Dice and cross-entropy.

    For a single channel the cross-entropy uses a sigmoid, and the sum takes one pass over the logits. For several
    channels it uses a softmax over them, whatever ``sigmoid`` is, as in the original, and PyTorch computes it.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act: as in :class:`DiceLoss`.
        squared_pred, jaccard, smooth_nr, smooth_dr, batch: options of the Dice loss, as in :class:`DiceLoss`.
        reduction: ``"mean"`` (default) or ``"sum"``.
        weight: ``[C]`` or None, the classes' weights in both losses; for a single channel, the positives' weight in
            the cross-entropy.
        lambda_dice, lambda_ce: >= 0, the two losses' weights in the sum. Default 1.0.
        label_smoothing: in [0, 1], applied to the cross-entropy of a softmax only. Default 0.0.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: as in :class:`DiceLoss`.

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/dice.py``.

    Example:
        >>> from mlloss_cuda.compat.monai import DiceCELoss
        >>> input, target = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1, 0], [1, 1]]]])
        >>> DiceCELoss(sigmoid=True)(input, target)
        tensor(0.8708)
    """

    weight: Tensor | None

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[..., Any] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if weight is not None and not isinstance(weight, Tensor):
            raise TypeError(f"weight: expected a tensor or None, got {check.received(weight)}")
        self.reduction = check.check_choice("reduction", getattr(reduction, "value", reduction), ("mean", "sum"))
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=self.reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight if weight is None or include_background else weight[1:],
        )
        self.lambda_dice = check.check_number("lambda_dice", lambda_dice, 0.0)
        self.lambda_ce = check.check_number("lambda_ce", lambda_ce, 0.0)
        self.label_smoothing = check.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        self.register_buffer("weight", weight)
        self._term = _fused_dice(self.dice)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits ``[B, C, *spatial]`` and targets of the same shape, or class numbers."""
        _check_channels(input, target)
        if input.shape[1] == 1:
            return self._single_channel(input, target)
        classes = target
        if target.shape[1] == 1:
            classes = target.squeeze(1).long()
        elif not target.is_floating_point():
            classes = target.to(input.dtype)
        ce = F.cross_entropy(
            input, classes, self.weight, reduction=self.reduction, label_smoothing=self.label_smoothing
        )
        return self.lambda_dice * self.dice(input, target) + self.lambda_ce * ce

    def _single_channel(self, input: Tensor, target: Tensor) -> Tensor:
        inputs = self.dice._prepared(input, target)
        x, y = self.dice._groups(inputs)
        positive = self.weight
        if positive is not None:
            if positive.numel() != 1:
                raise ValueError(f"weight: expected one number for a single channel, got {tuple(positive.shape)}")
            positive = positive.to(x.device).reshape(1).expand(x.shape[1])
        if self._term is None:
            ce = bce_with_logits_loss(x, y, pos_weight=positive, reduction=self.reduction)
            return self.lambda_dice * self.dice(input, target) + self.lambda_ce * ce
        terms = [(self.lambda_dice, self._term), (self.lambda_ce, BCEWithLogitsLoss(pos_weight=positive))]
        return compound_loss(x, y, terms, reduction=self.reduction)


class DiceFocalLoss(nn.Module):
    """MONAI's weighted sum of Dice and focal loss, in one pass over the logits.

    It takes one pass for each loss with ``softmax`` (where the focal loss still uses sigmoids, as in the original), a
    sequence for ``alpha``, ``smooth_dr`` above ``smooth_nr``, ``jaccard`` with ``squared_pred``, or
    ``reduction="none"``.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act: as in :class:`DiceLoss`.
        squared_pred, jaccard, smooth_nr, smooth_dr, batch: options of the Dice loss, as in :class:`DiceLoss`.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``, as in the two losses.
        gamma, alpha: options of the focal loss, as in :class:`FocalLoss`. Defaults 2.0 and None.
        weight: the weight in both losses: a number, or one for each class that remains, >= 0. Default None.
        lambda_dice, lambda_focal: >= 0, the two losses' weights in the sum. Default 1.0.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: as in :class:`DiceLoss`.

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/dice.py``.

    Example:
        >>> from mlloss_cuda.compat.monai import DiceFocalLoss
        >>> input, target = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1, 0], [1, 1]]]])
        >>> DiceFocalLoss(sigmoid=True)(input, target)
        tensor(0.5000)
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
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Sequence[float] | float | Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            sigmoid=sigmoid,
            softmax=softmax,
            other_act=other_act,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight,
        )
        self.focal = FocalLoss(
            include_background=include_background,
            to_onehot_y=to_onehot_y,
            gamma=gamma,
            weight=weight,
            alpha=alpha,
            reduction=reduction,
        )
        self.lambda_dice = check.check_number("lambda_dice", lambda_dice, 0.0)
        self.lambda_focal = check.check_number("lambda_focal", lambda_focal, 0.0)
        self.to_onehot_y = to_onehot_y
        self._terms: tuple[LossModule, LossModule] | None = None
        dice, one_alpha = _fused_dice(self.dice), self.focal.alpha
        if dice is not None and not isinstance(one_alpha, Tensor) and self.dice.reduction != "none":
            self._terms = dice, our_focal.SigmoidFocalLoss(alpha=one_alpha, gamma=gamma)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits ``[B, C, *spatial]`` and targets of the same shape, or class numbers."""
        _check_channels(input, target)
        inputs = self.dice._inputs(input, target, 3)
        # For a single class the original applies the weight in the focal loss, but not in Dice.
        if self._terms is None or (inputs.logits.shape[1] == 1 and self.focal.class_weight is not None):
            return self.lambda_dice * self.dice(input, target) + self.lambda_focal * self.focal(input, target)
        self.focal._warn_of_soft_targets(inputs.targets, SOFT_TARGETS)
        return self._in_one_pass(inputs, self._terms)

    def _in_one_pass(self, inputs: Inputs, terms: tuple[LossModule, LossModule]) -> Tensor:
        share = 1.0
        if self.dice.reduction == "sum":
            share = 1 / max(math.prod(inputs.logits.shape[2:]), 1)  # the focal loss's mean over voxels
        return compound_loss(
            *self.dice._groups(inputs),
            [(self.lambda_dice, terms[0]), (self.lambda_focal * share, terms[1])],
            sample_weight=self.dice._group_weights(inputs),
            reduction=self.dice.reduction,
        )
