"""The inputs of MONAI's losses: activations, one-hot targets, channels and ignored voxels."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _validation as check
from ._soft import SoftTargets

__all__ = ["IGNORED", "REDUCTIONS", "ChannelLoss", "Inputs", "softmax_log_odds"]

REDUCTIONS = ("mean", "sum", "none")
# The value of an ignored target, and a value that makes the loss NaN.
IGNORED, _WRONG = -1, -2


class Inputs(NamedTuple):
    """Logits and targets of one shape ``[B, C, *spatial]``, and a mask of the voxels that are not ignored.

    The mask is ``[B, 1, *spatial]``, or None for all voxels. Targets are ``IGNORED`` where it is False.
    """

    logits: Tensor
    targets: Tensor
    mask: Tensor | None

    @property
    def ignore_index(self) -> int | None:
        """The ``ignore_index`` of the fused loss."""
        return None if self.mask is None else IGNORED


def softmax_log_odds(logits: Tensor) -> Tensor:
    """Return the logits whose sigmoids are the softmax over dimension 1: ``log p - log(1 - p)``, without cancellation.

    Each is a logit minus the log-sum-exp of all others. Subtracting a channel's exponential from the sum over all
    channels is accurate unless that channel is the largest; the others are then summed separately.
    """
    if logits.shape[1] == 1:
        return logits * 0 + math.inf
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest, place = logits.max(1, keepdim=True)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, place, True)
    shifted = logits - largest.detach()
    exponential = shifted.exp()
    others = torch.where(is_largest, 1.0, exponential.sum(1, keepdim=True) - exponential)
    others_of_largest = shifted.masked_fill(is_largest, -math.inf).logsumexp(1, keepdim=True)
    return shifted - torch.where(is_largest, others_of_largest, others.log())


class ChannelLoss(SoftTargets):
    """The common base of the losses: background, one-hot targets, ignored voxels, class weights, reduction."""

    class_weight: Tensor | None

    def __init__(
        self, include_background: bool, to_onehot_y: bool, reduction: Any, weight: Any = None, ignore_index: Any = None
    ) -> None:
        super().__init__()
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        # A str or a member of MONAI's enum.
        self.reduction = check.check_choice("reduction", getattr(reduction, "value", reduction), REDUCTIONS)
        if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
            raise TypeError(f"ignore_index: expected an int or None, got {check.received(ignore_index)}")
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))

    def _inputs(self, input: Tensor, target: Tensor, least: int) -> Inputs:
        """Check the inputs, form one-hot targets and drop the background, as the options say.

        ``input`` has at least ``least`` dimensions.
        """
        input = check.check_logits(input)
        if input.dim() < least:
            raise ValueError(
                f"input: expected at least {least} dimensions, [B, C, *spatial], got shape {tuple(input.shape)}"
            )
        if not isinstance(target, Tensor):
            raise TypeError(f"target: expected a tensor, got {check.received(target)}")
        channels = input.shape[1]
        for name, given in (
            ("to_onehot_y=True", self.to_onehot_y),
            ("include_background=False", not self.include_background),
        ):
            if given and channels == 1:
                warnings.warn(f"single channel prediction, `{name}` ignored.", stacklevel=3)
        mask = self._mask(target)
        if self.to_onehot_y and channels > 1:
            target = _one_hot(target, input, self.ignore_index)
        if not self.include_background and channels > 1:
            input, target = input[:, 1:], target[:, 1:]
        if target.shape != input.shape:
            raise ValueError(f"target: expected shape {tuple(input.shape)} like the input, got {tuple(target.shape)}")
        return Inputs(input, target if mask is None else _without(target, mask), mask)

    def _mask(self, target: Tensor) -> Tensor | None:
        """Return the mask for the given target, which is class numbers or has one channel for each class."""
        ignored = self.ignore_index
        if ignored is None:
            return None
        if target.dim() < 2 or target.shape[1] == 1:
            return target != ignored
        if 0 <= ignored < target.shape[1]:
            return target[:, ignored : ignored + 1] < 0.5
        return target.sum(1, keepdim=True) > 0

    def _channel_weights(self, channels: int) -> Tensor | None:
        """Return a weight for each channel, ``[C]``, or None."""
        weight = self.class_weight
        if weight is None:
            return None
        if weight.dim() > 0 and tuple(weight.shape) != (channels,):
            raise ValueError(
                f"weight: expected a number or one for each of {channels} classes "
                f"(without the background if it is left out), got shape {tuple(weight.shape)}"
            )
        return weight.expand(channels)


def _one_hot(target: Tensor, input: Tensor, ignore_index: int | None) -> Tensor:
    """Expand class numbers ``[B, 1, *spatial]`` to ``[B, C, *spatial]``.

    A class number out of range is an error where values can be read without waiting, and otherwise a loss of NaN.
    """
    channels, expected = input.shape[1], (input.shape[0], 1, *input.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target: expected class numbers of shape {expected} with to_onehot_y=True, got shape {tuple(target.shape)}"
            + (", which has channels already" if target.shape == input.shape else "")
        )
    classes = target.long()
    if ignore_index is not None and not 0 <= ignore_index < channels:
        classes = torch.where(target == ignore_index, 0, classes)
    hot = classes == torch.arange(channels, device=target.device).reshape(-1, *[1] * (input.dim() - 2))
    outside = (classes < 0) | (classes >= channels)
    if not check.readable(classes):
        return torch.where(outside, _WRONG, hot.to(torch.int8))
    if bool(outside.any()):
        raise ValueError(
            f"target: expected classes 0 to {channels - 1} with to_onehot_y=True, got {int(classes[outside][0])}; "
            "ignore_index can exclude a class"
        )
    return hot


def _without(target: Tensor, mask: Tensor) -> Tensor:
    if target.dtype in (torch.bool, torch.uint8):
        target = target.to(torch.int16)
    return torch.where(mask, target, IGNORED)
