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
from ..losses._overlap import SPEC, coefficients
from ._monai_inputs import ChannelLoss, Inputs, softmax_log_odds

__all__ = ["DiceLoss", "GeneralizedDiceLoss", "TverskyLoss"]

# A logit whose sigmoid is exactly 1, and its slope 0.
_CERTAIN = 1000.0


class OverlapLoss(ChannelLoss):
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
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(include_background, to_onehot_y, reduction, weight, ignore_index)
        if other_act is not None:
            raise ValueError("other_act: expected None, for the loss is of logits: sigmoid=True or softmax=True")
        if sigmoid and softmax:
            raise ValueError("softmax: expected False with sigmoid=True, got both")
        if not (sigmoid or softmax):
            raise ValueError(
                "sigmoid: expected True, or softmax=True, for the loss is of logits; leave the activation out of the "
                "model. (The original then takes the input for probabilities.)"
            )
        self.sigmoid, self.softmax, self.other_act = sigmoid, softmax, other_act
        self.smooth_nr = check.check_number("smooth_nr", smooth_nr, 0.0)
        self.smooth_dr = check.check_number("smooth_dr", smooth_dr, self.smooth_nr)
        self.batch = batch

    def _prepared(self, input: Tensor, target: Tensor) -> Inputs:
        """The inputs, as logits of sigmoids."""
        if not self.softmax:
            return self._inputs(input, target, 3)
        input = check.check_logits(input)
        if input.dim() >= 3 and input.shape[1] == 1:
            raise ValueError(
                "softmax: expected False for a single channel (which the original takes for probabilities)"
            )
        return self._inputs(softmax_log_odds(input) if input.dim() >= 3 else input, target, 3)

    def _groups(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Logits and targets ``[groups, elements]``."""
        batch, channels = inputs.logits.shape[:2]
        x, y = (t.transpose(0, 1) if self.batch else t for t in (inputs.logits, inputs.targets))
        groups = channels if self.batch else batch * channels
        return x.reshape(groups, -1), y.reshape(groups, -1)

    def _group_weights(self, inputs: Inputs) -> Tensor | None:
        """A weight for each group. A single class has none, as in the original."""
        batch, channels = inputs.logits.shape[:2]
        weight = None if channels == 1 else self._weight_of_classes(channels)
        return None if weight is None else weight.to(inputs.logits.device).repeat(1 if self.batch else batch)

    def _smoothed(self, x: Tensor, y: Tensor, false_positive: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, targets and elements' weights with ``smooth_dr`` as the denominator's constant.

        The fused loss smooths numerator and denominator alike. What the denominator is to have more is one more
        element, a false positive, of which a whole one adds ``false_positive`` there.
        """
        if self.smooth_dr == self.smooth_nr:
            return x, y, None
        x, y = F.pad(x, (0, 1), value=_CERTAIN), F.pad(y, (0, 1))
        weight = torch.ones(x.shape[1], dtype=_ops.compute_dtype(x), device=x.device)
        weight[-1] = (self.smooth_dr - self.smooth_nr) / false_positive
        return x, y, weight


class DiceLoss(OverlapLoss):
    """MONAI's Dice loss of logits: the mean over items and channels of ``1 - (2 I + c) / (sum p + sum y + c)``.

    Args:
        include_background: False leaves channel 0 out, after the softmax. Default True.
        to_onehot_y: the target is class numbers ``[B, 1, *spatial]``. Default False.
        sigmoid: the probabilities are sigmoids of the input. One of this and ``softmax`` must be True.
        softmax: they are a softmax over its channels; that takes some passes of PyTorch's own. Default False.
        other_act: must be None.
        squared_pred: squares in the denominator. Default False.
        jaccard: intersection over union in the place of Dice. Default False.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C, 1, ...]``, ``[C, 1, ...]`` with ``batch``.
        smooth_nr: >= 0. Default 1e-5.
        smooth_dr: >= ``smooth_nr``; above it, the logits are copied once. Default 1e-5.
        batch: sum over the batch before dividing. Default False.
        weight: a number, or one for each class that is left, >= 0; without effect for a single class, as in the
            original. Default None.
        soft_label: only together with ``squared_pred``, where it makes no difference; with 0/1 targets it
            never makes one. Default False.
        ignore_index: voxels of this class take no part; of a one-hot target, where it is no class, those of no class
            at all. Default None.

    Raises:
        TypeError: an argument has another type.
        ValueError: an option is not served, shapes do not fit (an AssertionError in the original), or a class is out
            of range (on the CPU; elsewhere the loss is NaN then).

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
        """The loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._prepared(input, target)
        # MONAI's constants stand beside twice the overlap.
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
    """Intersection over union with squares, which has no function of its own."""
    term = Term(SPEC, coefficients(smooth, squared=True, alpha=1.0, beta=1.0), "samples")
    return evaluate(
        term,
        x,
        y,
        label_smoothing=0.0,
        logit_scale=1.0,
        logit_bias=None,
        normalizer=None,
        inplace_backward=False,
        **given,
    )


class TverskyLoss(OverlapLoss):
    """MONAI's Tversky loss of logits: the mean over items and channels of ``1 - (I + c) / (I + a FP + b FN + c)``.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act, smooth_nr, smooth_dr, batch, ignore_index: as in
            :class:`DiceLoss`.
        alpha: >= 0, the weight of false positives; above 0 where ``smooth_dr`` is not ``smooth_nr``. Default 0.5.
        beta: >= 0, the weight of false negatives. Default 0.5.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, C]``, ``[C]`` with ``batch``.
        soft_label: must be False; with 0/1 targets it makes no difference.

    Raises:
        TypeError: an argument has another type.
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
        """The loss of logits and targets ``[B, C, *spatial]``."""
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
    r"""MONAI's generalised Dice loss of logits: all channels in one fraction, each weighted by its size.

    .. math:: 1 - \frac{2 \sum_c w_c I_c + c}{\sum_c w_c (\sum p_c + \sum y_c) + c}, \qquad w_c = (\sum y_c)^{-2}

    A channel without positives takes the largest weight of the others. With ``batch``, or ``w_type="uniform"``, it is
    one pass; else one for each item, whose weights are its own.

    Args:
        include_background, to_onehot_y, sigmoid, softmax, other_act, smooth_nr, smooth_dr, batch: as in
            :class:`DiceLoss`.
        w_type: ``"square"`` (default), ``"simple"``, the inverse of the size, or ``"uniform"``, 1.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``: ``[B, 1, ...]``, ``[1, ...]`` with ``batch``.
        soft_label: must be False; with 0/1 targets it makes no difference.

    Raises:
        TypeError: an argument has another type.
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
        """The loss of logits and targets ``[B, C, *spatial]``."""
        inputs = self._prepared(input, target)
        x, y = inputs.logits.flatten(2), inputs.targets.flatten(2)
        if self.batch:
            x, y = (t.transpose(0, 1)[None].flatten(2) for t in (x, y))
        if self.w_type == "uniform":
            values = self._fractions(x.flatten(1), y.flatten(1), None)
        else:
            weights = self._weights_by_size(y)
            each = [
                self._fractions(a.reshape(1, -1), b.reshape(1, -1), w.repeat_interleave(a.shape[1]))
                for a, b, w in zip(x, y, weights, strict=True)
            ]
            values = torch.cat(each)
        if self.reduction != "none":
            return values.mean() if self.reduction == "mean" else values.sum()
        return values.reshape(*([1] if self.batch else [len(values), 1]), *[1] * (input.dim() - 2))

    def _weights_by_size(self, y: Tensor) -> Tensor:
        """For targets ``[groups, C, elements]``: ``[groups, C]``."""
        size = y.sum(2).to(torch.float64)
        weight = 1 / (size * size if self.w_type == "square" else size)
        none = weight.isinf()
        weight = weight.masked_fill(none, 0.0)
        return torch.where(none, weight.amax(1, keepdim=True), weight)

    def _fractions(self, x: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """The losses of groups ``[groups, elements]``."""
        x, y, own = self._smoothed(x, y, 1.0)
        if weight is not None:
            weight = weight.to(_ops.compute_dtype(x))
            own = weight if own is None else torch.cat([weight, own[-1:]])
        return dice_loss(x, y, smooth=self.smooth_nr, weight=own, reduction="none")


def _check_soft(soft_label: bool) -> None:
    if soft_label:
        raise ValueError("soft_label: expected False, which is the same for 0/1 targets; probabilities are not served")
