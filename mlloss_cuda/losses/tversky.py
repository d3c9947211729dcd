"""Tversky: Dice with separate weights for false positives and false negatives."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._registry import Term, checked_once
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._module import LossModule
from ._overlap import AVERAGES, OVERLAP_SAYS, SPEC, coefficients

__all__ = ["TverskyLoss", "tversky_loss"]


@checked_once
def _term(alpha: float, beta: float, gamma: float, smooth: float, average: str) -> Term:
    average = check.check_choice("average", average, AVERAGES)
    alpha, beta = check.check_number("alpha", alpha, 0.0), check.check_number("beta", beta, 0.0)
    gamma, smooth = check.check_number("gamma", gamma, 0.0), check.check_number("smooth", smooth, 0.0)
    return Term(SPEC, coefficients(smooth, alpha=alpha, beta=beta, gamma=gamma), average)


@documented(
    none="the groups' losses: ``[...]`` by sample, ``[L]`` by label, ``[]`` over the whole batch",
    weight="multiplies the label's contributions to every sum",
    sample_weight="multiplies a row's loss or, if groups cross rows, its contributions to every sum",
)
def tversky_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 1.0,
    average: str = "samples",
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
    r"""Tversky loss: overlap relative to its sum with false positives and false negatives, separately weighted.

    .. math:: \Big(1 - \frac{I + c}{I + \alpha \sum p\,(1 - y) + \beta \sum (1 - p)\,y + c}\Big)^\gamma,
        \qquad I = \sum p\,y, \quad p = \sigma(s)

    A ``beta`` above ``alpha`` favours recall. (1/2, 1/2) is Dice, with twice its smoothing; (1, 1) is
    Jaccard. A ``gamma`` below 1 keeps the gradient of groups that are nearly correct (focal Tversky); above
    1, it reduces their gradient. The sums run over a group; an empty group without smoothing has a loss
    of 0. At a loss of 0 the gradient is 0, for every gamma. As with Dice, the gradient vanishes if p is 0
    or 1, so the loss works best in a sum with another loss.

    Args:
        {logits}
        alpha: >= 0, the weight of false positives. Default 0.5.
        beta: >= 0, the weight of false negatives. Default 0.5.
        gamma: >= 0, the power of the loss. Default 1.0.
        smooth: c >= 0. Default 1.0.
        average: the groups, named as in scikit-learn: ``"samples"`` (a row, default), ``"macro"``
            (a label, over the batch), ``"micro"`` (the whole batch).
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation ...", 2017,
        arXiv:1706.05721. Power: Abraham, Khan, "A Novel Focal Tversky loss ...", 2018,
        arXiv:1810.07842 (which has 1 / gamma).

    Example:
        >>> logits = torch.tensor([[2.0, -2.0]])
        >>> tversky_loss(logits, torch.tensor([[1, 0]]), alpha=0.3, beta=0.7).item()
        0.0596...
    """
    return evaluate(
        _term(alpha, beta, gamma, smooth, average),
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


class TverskyLoss(LossModule):
    """The module of :func:`tversky_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``predict`` selects ``s > 0``, where p is above 1/2. There are no ``probabilities``.

    Example:
        >>> TverskyLoss(alpha=0.3, beta=0.7)
        TverskyLoss(alpha=0.3, beta=0.7, gamma=1.0, smooth=1.0, average='samples', reduction='mean')
    """

    _function = staticmethod(tversky_loss)
    _term = staticmethod(_term)

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        smooth: float = 1.0,
        average: str = "samples",
        **common: Unpack[CommonArguments],
    ) -> None:
        _term(alpha, beta, gamma, smooth, average)
        own = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth, "average": average}
        super().__init__(own, common)

    _undecided = OVERLAP_SAYS

    def _predicted(self, s: Tensor) -> Tensor:
        return s > 0
