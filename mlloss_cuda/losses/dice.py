"""Soft Dice, by sample, by label, or over the whole batch."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._registry import Term, checked_once
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._module import LossModule
from ._overlap import ADJUSTED, AVERAGES, OVERLAP_SAYS, SPEC, coefficients

__all__ = ["DiceLoss", "dice_loss"]


@checked_once
def _term(smooth: float, squared: bool, average: str, log: bool, self_adjusting_alpha: float) -> Term:
    average = check.check_choice("average", average, AVERAGES)
    smooth = check.check_number("smooth", smooth, 0.0)
    squared, log = check.check_bool("squared", squared), check.check_bool("log", log)
    focus = check.check_number("self_adjusting_alpha", self_adjusting_alpha, 0.0)
    # Dice is Tversky with alpha = beta = 1/2; its smoothing is halved, because Dice has twice the overlap.
    own = coefficients(smooth / 2, squared, log=log)
    return Term(ADJUSTED, (*own, focus), average) if focus > 0 else Term(SPEC, own, average)


@documented(
    none="the groups' losses: ``[...]`` by sample, ``[L]`` by label, ``[]`` over the whole batch",
    weight="multiplies the label's contributions to every sum",
    sample_weight="multiplies a row's loss or, if groups cross rows, its contributions to every sum",
)
def dice_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    smooth: float = 1.0,
    squared: bool = False,
    average: str = "samples",
    log: bool = False,
    self_adjusting_alpha: float = 0.0,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    logit_scale: float | Tensor = 1.0,
    logit_bias: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    reduction: str = "mean",
    inplace_backward: bool = False,
) -> Tensor:
    r"""Soft Dice: one minus the overlap of predicted and true labels, relative to their sizes.

    .. math:: 1 - \frac{2 \sum p\,y + c}{\sum p^q + \sum y^q + c}, \qquad p = \sigma(s),

    q is 1, or 2 if ``squared`` is set; the sums run over a group. This is the soft form of F1, for rare
    positives: correct negatives have no effect. The gradient vanishes if p is 0 or 1, even for wrong
    predictions, so the loss works best in a sum with another loss. An empty group (all labels excluded,
    or no labels) without smoothing has a loss of 0. With ``log``, the loss is the negative logarithm of
    the fraction, which is steep if nothing is found. ``self_adjusting_alpha`` replaces p by
    :math:`(1 - p)^\alpha p`, so certain labels have less influence.

    Args:
        {logits}
        smooth: c >= 0. Default 1.0; V-Net has no smoothing.
        squared: use squares in the denominator. Default False.
        average: the groups, named as in scikit-learn: ``"samples"`` (a row, default), ``"macro"``
            (a label, over the batch), ``"micro"`` (the whole batch).
        log: use ``-log`` of the fraction instead of one minus the fraction. It is infinite if a group has
            no overlap and ``smooth`` is 0. Default False.
        self_adjusting_alpha: >= 0. Default 0.0, which leaves p unchanged.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Linear: Sudre et al., "Generalised Dice overlap ...", 2017, arXiv:1707.03237. Squared:
        Milletari, Navab, Ahmadi, "V-Net", 2016, arXiv:1606.04797. Self-adjusting: Li et al., "Dice
        Loss for Data-imbalanced NLP Tasks", 2020, arXiv:1911.02855.

    Example:
        >>> logits = torch.tensor([[2.0, -2.0]])
        >>> dice_loss(logits, torch.tensor([[1, 0]])).item()
        0.0794...
    """
    return evaluate(
        _term(smooth, squared, average, log, self_adjusting_alpha),
        logits,
        targets,
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
    """The module of :func:`dice_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``predict`` selects ``s > 0``, where p is above 1/2. It is not available with ``self_adjusting_alpha``, which lets
    p rise to ``1 / (1 + alpha)`` only. There are no ``probabilities``.

    Example:
        >>> DiceLoss(squared=True)
        DiceLoss(smooth=1.0, squared=True, average='samples', log=False, self_adjusting_alpha=0.0, reduction='mean')
    """

    _function = staticmethod(dice_loss)
    _term = staticmethod(_term)
    self_adjusting_alpha: float

    def __init__(
        self,
        *,
        smooth: float = 1.0,
        squared: bool = False,
        average: str = "samples",
        log: bool = False,
        self_adjusting_alpha: float = 0.0,
        **common: Unpack[CommonArguments],
    ) -> None:
        _term(smooth, squared, average, log, self_adjusting_alpha)
        own = {
            "smooth": smooth,
            "squared": squared,
            "average": average,
            "log": log,
            "self_adjusting_alpha": self_adjusting_alpha,
        }
        super().__init__(own, common)

    _undecided = OVERLAP_SAYS

    def _predicted(self, s: Tensor) -> Tensor:
        if self.self_adjusting_alpha > 0:
            raise self._no_threshold("(1 - p)^alpha p is as small for a certain label as for an impossible one")
        return s > 0
