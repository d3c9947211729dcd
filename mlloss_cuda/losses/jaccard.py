"""Soft Jaccard, or intersection over union."""

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

__all__ = ["JaccardLoss", "jaccard_loss"]


@checked_once
def _term(smooth: float, average: str) -> Term:
    smooth, average = check.check_number("smooth", smooth, 0.0), check.check_choice("average", average, AVERAGES)
    return Term(SPEC, coefficients(smooth, alpha=1.0, beta=1.0), average)


@documented(
    none="the groups' losses: ``[...]`` by sample, ``[L]`` by label, ``[]`` over the whole batch",
    weight="multiplies the label's contributions to every sum",
    sample_weight="multiplies a row's loss or, if groups cross rows, its contributions to every sum",
)
def jaccard_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
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
    r"""Soft Jaccard: one minus intersection over union of predicted and true labels.

    .. math:: 1 - \frac{I + c}{\sum p + \sum y - I + c}, \qquad I = \sum p\,y, \quad p = \sigma(s)

    This is :func:`tversky_loss` with ``alpha = beta = 1``. It suits intersection over union as the
    metric, and works best in a sum with another loss. Without smoothing it is ``2 D / (1 + D)`` for
    a Dice loss of D, so it orders the predictions of a group as Dice does and is never lower. The sums
    run over a group; an empty group without smoothing has a loss of 0.

    Args:
        {logits}
        smooth: c >= 0. Default 1.0.
        average: the groups, named as in scikit-learn: ``"samples"`` (a row, default), ``"macro"``
            (a label, over the batch), ``"micro"`` (the whole batch).
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks ...", 2016.

    Example:
        >>> logits = torch.tensor([[2.0, -2.0]])
        >>> jaccard_loss(logits, torch.tensor([[1, 0]])).item()
        0.1124...
    """
    return evaluate(
        _term(smooth, average),
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


class JaccardLoss(LossModule):
    """The module of :func:`jaccard_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``predict`` selects ``s > 0``, where p is above 1/2. There are no ``probabilities``.

    Example:
        >>> JaccardLoss(average="macro")
        JaccardLoss(smooth=1.0, average='macro', reduction='mean')
    """

    _function = staticmethod(jaccard_loss)
    _term = staticmethod(_term)

    def __init__(self, *, smooth: float = 1.0, average: str = "samples", **common: Unpack[CommonArguments]) -> None:
        _term(smooth, average)
        super().__init__({"smooth": smooth, "average": average}, common)

    _undecided = OVERLAP_SAYS

    def _predicted(self, s: Tensor) -> Tensor:
        return s > 0
