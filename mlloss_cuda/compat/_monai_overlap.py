"""MONAI's Dice, generalised Dice and Tversky losses, fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _ops
from .. import _validation as check
from .._dispatch import evaluate
from .._registry import Term
from ..losses import dice_loss, jaccard_loss, tversky_loss
from ..losses._arguments import DEFAULTS
from ..losses._overlap import SPEC, coefficients
from ._monai_inputs import ChannelLoss, Inputs, softmax_log_odds

__all__ = ["DiceLoss", "GeneralizedDiceLoss", "TverskyLoss"]

# A logit whose sigmoid is exactly 1 with slope 0.
_SATURATED_LOGIT = 1000.0


class OverlapLoss(ChannelLoss):
    """The base of the overlap losses; a group is a channel of an item, or with ``batch`` of the whole batch."""

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
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background, to_onehot_y, reduction, weight, ignore_index)
        if other_act is not None:
            raise ValueError("other_act: expected None, because the loss takes logits: sigmoid=True or softmax=True")
        if sigmoid and softmax:
            raise ValueError("softmax: expected False with sigmoid=True, got both")
        if not (sigmoid or softmax):
            raise ValueError(
                "sigmoid: expected True, or softmax=True, because the loss takes logits; leave the activation out of "
                "the model. (The original would take the input as probabilities.)"
            )
        self.sigmoid, self.softmax, self.other_act = sigmoid, softmax, other_act
        self.smooth_nr = check.check_number("smooth_nr", smooth_nr, 0.0)
        self.smooth_dr = check.check_number("smooth_dr", smooth_dr, self.smooth_nr)
        self.batch = batch

    def _prepared(self, input: Tensor, target: Tensor) -> Inputs:
        """Check the inputs, and convert logits of a softmax to logits of sigmoids."""
        if not self.softmax:
            return self._inputs(input, target, 3)
        input = check.check_logits(input)
        if input.dim() >= 3 and input.shape[1] == 1:
            raise ValueError("softmax: expected False for a single channel (which the original takes as probabilities)")
        return self._inputs(softmax_log_odds(input) if input.dim() >= 3 else input, target, 3)

    def _groups(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return logits and targets as ``[groups, elements]``."""
        x, y = inputs.logits, inputs.targets
        if self.batch:
            return x.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1)
        return x.flatten(0, 1).flatten(1), y.flatten(0, 1).flatten(1)

    def _group_weights(self, inputs: Inputs) -> Tensor | None:
        """Return a weight for each group; a single class has none, as in the original."""
        batch, channels = inputs.logits.shape[:2]
        weight = None if channels == 1 else self._channel_weights(channels)
        return None if weight is None else weight.to(inputs.logits.device).repeat(1 if self.batch else batch)

    def _smoothed(self, x: Tensor, y: Tensor, false_positive: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, targets and elements' weights that give ``smooth_dr`` in the denominator.

        The fused loss adds one constant to both numerator and denominator. The rest of the denominator comes from an
        additional element, a false positive, which with weight 1 adds ``false_positive`` to it.
        """
        if self.smooth_dr == self.smooth_nr:
            return x, y, None
        x, y = F.pad(x, (0, 1), value=_SATURATED_LOGIT), F.pad(y, (0, 1))
        weight = torch.ones(x.shape[1], dtype=_ops.compute_dtype(x), device=x.device)
        weight[-1] = (self.smooth_dr - self.smooth_nr) / false_positive
        return x, y, weight


class DiceLoss(OverlapLoss):
    """MONAI's Dice loss of logits: the mean over items and channels of ``1 - (2 I + c) / (sum p + sum y + c)``.

    Args:
        include_background: False drops channel 0, after the softmax. Default True.
        to_onehot_y: the target is class numbers ``[B, 1, *spatial]``. Default False.
        sigmoid: the probabilities are sigmoids of the input. Either ``sigmoid`` or ``softmax`` must be True.
        softmax: the probabilities are a softmax over the channels; this adds a few passes of PyTorch. Default False.
        other_act: must be None.
        squared_pred: use squares in the denominator. Default False.
        jaccard: use intersection over union instead of Dice. Default False.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C, 1, ...]``, ``[C, 1, ...]`` with ``batch``.
        smooth_nr: >= 0. Default 1e-5.
        smooth_dr: >= ``smooth_nr``; above it, the logits are copied once. Default 1e-5.
        batch: sum over the batch before dividing. Default False.
        weight: a number, or one for each class that remains, >= 0; without effect for a single class, as in the
            original. Default None.
        soft_label: may be True only with ``squared_pred``, where it has no effect; with 0/1 targets it never has
            one. Default False.
        ignore_index: voxels of this class are ignored; with a one-hot target that has no such class, voxels of no
            class are. Default None.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an option is not supported, shapes do not fit (an AssertionError in the original), or a class is
            out of range (on the CPU; on other devices the loss is NaN).

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/dice.py``.

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
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            weight,
            ignore_index,
        )
        _check_soft(soft_label and not squared_pred)
        self.squared_pred, self.jaccard, self.soft_label = squared_pred, jaccard, soft_label

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._prepared(input, target)
        # MONAI adds its constants to twice the intersection.
        x, y, weight = self._smoothed(*self._groups(inputs), 2.0 if self.jaccard else 1.0)
        given: dict[str, Any] = {
            "weight": weight,
            "sample_weight": self._group_weights(inputs),
            "ignore_index": inputs.ignore_index,
            "reduction": self.reduction,
        }
        if self.jaccard and self.squared_pred:
            value = _squared_jaccard(x, y, self.smooth_nr / 2, given)
        elif self.jaccard:
            value = jaccard_loss(x, y, smooth=self.smooth_nr / 2, **given)
        else:
            value = dice_loss(x, y, smooth=self.smooth_nr, squared=self.squared_pred, **given)
        if self.reduction != "none":
            return value
        groups = inputs.logits.shape[1:2] if self.batch else inputs.logits.shape[:2]
        return value.reshape(*groups, *[1] * (input.dim() - 2))


def _squared_jaccard(x: Tensor, y: Tensor, smooth: float, given: dict[str, Any]) -> Tensor:
    """Compute intersection over union with squares, for which there is no public function."""
    term = Term(SPEC, coefficients(smooth, squared=True, alpha=1.0, beta=1.0), "samples")
    return evaluate(term, x, y, **{**DEFAULTS, **given})


class TverskyLoss(OverlapLoss):
    """MONAI's Tversky loss of logits: the mean over items and channels of ``1 - (I + c) / (I + a FP + b FN + c)``.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act, smooth_nr, smooth_dr, batch, ignore_index: as in
            :class:`DiceLoss`.
        alpha: >= 0, the weight of false positives; above 0 if ``smooth_dr`` differs from ``smooth_nr``. Default 0.5.
        beta: >= 0, the weight of false negatives. Default 0.5.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C]``, ``[C]`` with ``batch``.
        soft_label: must be False; with 0/1 targets it has no effect.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: as in :class:`DiceLoss`.

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/tversky.py``.

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
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            ignore_index=ignore_index,
        )
        _check_soft(soft_label)
        self.soft_label = soft_label
        check.check_number("alpha", alpha, 0.0, open_low=smooth_dr != smooth_nr)
        self.alpha, self.beta = alpha, check.check_number("beta", beta, 0.0)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._prepared(input, target)
        x, y, weight = self._smoothed(*self._groups(inputs), self.alpha)
        value = tversky_loss(
            x,
            y,
            alpha=self.alpha,
            beta=self.beta,
            smooth=self.smooth_nr,
            weight=weight,
            ignore_index=inputs.ignore_index,
            reduction=self.reduction,
        )
        return value if self.reduction != "none" or self.batch else value.reshape(inputs.logits.shape[:2])


class GeneralizedDiceLoss(OverlapLoss):
    r"""MONAI's generalised Dice loss of logits: one fraction for all channels, each weighted by its inverse size.

    .. math:: 1 - \frac{2 \sum_c w_c I_c + c}{\sum_c w_c (\sum p_c + \sum y_c) + c}, \qquad w_c = (\sum y_c)^{-2}

    A channel without positives has the largest weight of the others. With ``batch`` or ``w_type="uniform"`` the loss
    takes one pass; otherwise it takes one for each item, because weights differ between items.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act, smooth_nr, smooth_dr, batch: as in
            :class:`DiceLoss`.
        w_type: ``"square"`` (default), ``"simple"`` (the inverse of the size) or ``"uniform"`` (1).
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, 1, ...]``, ``[1, ...]`` with ``batch``.
        soft_label: must be False; with 0/1 targets it has no effect.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: as in :class:`DiceLoss`.

    Source:
        Project-MONAI/MONAI 1.6.1, ``monai/losses/dice.py``, after Sudre et al., "Generalised Dice overlap as a deep
        learning loss function for highly unbalanced segmentations", 2017, arXiv:1707.03237.

    Example:
        >>> from mlloss_cuda.compat.monai import GeneralizedDiceLoss
        >>> input, target = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1, 0], [1, 1]]]])
        >>> GeneralizedDiceLoss(sigmoid=True)(input, target)
        tensor(0.3076)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[..., Any] | None = None,
        w_type: Any = "square",
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
        self.soft_label = soft_label
        self.w_type = check.check_choice("w_type", getattr(w_type, "value", w_type), ("square", "simple", "uniform"))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._prepared(input, target)
        x, y = inputs.logits.flatten(2), inputs.targets.flatten(2)
        if self.batch:
            x, y = (t.transpose(0, 1)[None].flatten(2) for t in (x, y))
        if self.w_type == "uniform" or not len(x):
            values = self._fractions(x.flatten(1), y.flatten(1), None)
        else:
            weights = self._weights_by_size(y)
            each = [
                self._fractions(a.flatten()[None], b.flatten()[None], w.repeat_interleave(a.shape[1]))
                for a, b, w in zip(x, y, weights, strict=True)
            ]
            values = torch.cat(each)
        if self.reduction != "none":
            return values.mean() if self.reduction == "mean" else values.sum()
        return values.reshape(*([1] if self.batch else [len(values), 1]), *[1] * (input.dim() - 2))

    def _weights_by_size(self, y: Tensor) -> Tensor:
        """Return weights ``[groups, C]`` for targets ``[groups, C, elements]``."""
        size = y.sum(2, dtype=torch.float64)
        weight = 1 / (size * size if self.w_type == "square" else size)
        empty = weight.isinf()
        weight = weight.masked_fill(empty, 0.0)
        return torch.where(empty, weight.amax(1, keepdim=True), weight)

    def _fractions(self, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """Return the loss of each group of ``[groups, elements]``."""
        x, y, smoothing = self._smoothed(x, y, 1.0)
        if weight is not None:
            weight = weight.to(_ops.compute_dtype(x))
            weight = weight if smoothing is None else torch.cat([weight, smoothing[-1:]])
        return dice_loss(x, y, smooth=self.smooth_nr, weight=smoothing if weight is None else weight, reduction="none")


def _check_soft(soft_label: bool) -> None:
    if soft_label:
        raise ValueError("soft_label: expected False, which gives the same for 0/1 targets, the only ones supported")
