"""Soft Dice, by sample, by label, or over everything."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._registry import LossSpec, register
from ..targets import CSRTargets
from ._common import CommonArguments, LossModule, documented

__all__ = ["DiceLoss", "dice_loss"]

_AVERAGES = ("samples", "macro", "micro")


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    smooth, squared = parameters
    p = torch.sigmoid(s)
    p_power, y_power = (p * p, y * y) if squared else (p, y)
    both, either = p * y, p_power + y_power
    if w is not None:
        both, either = both * w, either * w
    numerator, denominator = 2 * both.sum(dim) + smooth, either.sum(dim) + smooth
    # Nothing to find and nothing found, unsmoothed: a loss of 0, where 0 / 0 is NaN.
    empty = denominator == 0
    return torch.where(empty, 0.0, 1 - numerator / torch.where(empty, 1.0, denominator))


_SPEC = register(
    LossSpec(
        name="dice",
        groupings=_AVERAGES,
        coefficients=2,
        reference=_reference,
    )
)


def _parameters(smooth: float, squared: bool) -> tuple[float, ...]:
    smooth = check.check_number("smooth", smooth, 0.0)
    return smooth, float(check.check_bool("squared", squared))


@documented(
    none="the groups' losses: ``[...]`` by sample, ``[L]`` by label, ``[]`` over everything",
    weight="multiplies the label's contributions to every sum",
    sample_weight="multiplies a row's loss, or in groups that cross rows its contributions to every sum",
)
def dice_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    smooth: float = 1.0,
    squared: bool = False,
    average: str = "samples",
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    logit_scale: float | Tensor = 1.0,
    logit_bias: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    reduction: str = "mean",
    inplace_backward: bool = False,
) -> Tensor:
    r"""Soft Dice: one minus the overlap of predicted and true labels, relative to their sizes.

    .. math:: 1 - \frac{2 \sum p\,y + c}{\sum p^q + \sum y^q + c}, \qquad p = \sigma(s),

    q = 1 or, ``squared``, 2; the sums run over a group. A group without any part (all excluded, or
    no labels) and without smoothing has a loss of 0.

    Args:
        {logits}
        smooth: c >= 0. Default 1.0.
        squared: squares in the denominator. Default False.
        average: the groups, named as in scikit-learn: ``"samples"`` (a row, default), ``"macro"``
            (a label, over the batch), ``"micro"`` (everything).
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Linear: Sudre et al., "Generalised Dice overlap ...", 2017, arXiv:1707.03237. Squared:
        Milletari, Navab, Ahmadi, "V-Net", 2016, arXiv:1606.04797.

    Example:
        >>> logits = torch.tensor([[2.0, -2.0]])
        >>> dice_loss(logits, torch.tensor([[1, 0]])).item()
        0.0794...
    """
    parameters = _parameters(smooth, squared)
    return evaluate(
        _SPEC,
        logits,
        targets,
        parameters=parameters,
        grouping=check.check_choice("average", average, _AVERAGES),
        weight=weight,
        sample_weight=sample_weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        normalizer=normalizer,
        reduction=reduction,
        inplace_backward=inplace_backward,
    )


class DiceLoss(LossModule):
    """The module of :func:`dice_loss`: its arguments but ``sample_weight``, which the call takes.

    Example:
        >>> DiceLoss(squared=True)
        DiceLoss(smooth=1.0, squared=True, average='samples', reduction='mean')
    """

    _function = staticmethod(dice_loss)

    def __init__(
        self, *, smooth: float = 1.0, squared: bool = False, average: str = "samples", **common: Unpack[CommonArguments]
    ) -> None:
        _parameters(smooth, squared)
        check.check_choice("average", average, _AVERAGES)
        super().__init__({"smooth": smooth, "squared": squared, "average": average}, common)
