"""Binary cross-entropy that ignores well-classified labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import softplus
from .._registry import LossSpec, Term, checked_once, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule

__all__ = ["MarginBCELoss", "margin_bce_loss"]


def _reference(s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    (most,) = parameters

    def loss(z: Tensor) -> Tensor:
        # The logit decides, not the probability: p rounds to the margin long before z reaches it.
        undecided = torch.heaviside(most - z.detach(), z.new_tensor(0.5))
        return undecided * softplus(-z)

    return expectation(s, y, loss, lambda s: loss(-s))


_SPEC = register(
    LossSpec(
        name="margin_bce",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
    )
)


@checked_once
def _term(margin: float) -> Term:
    margin = check.check_number("margin", margin, 0.5, 1.0, open_low=True, open_high=True)
    return Term(_SPEC, (math.log(margin / (1 - margin)),))


@documented(
    none="the elements' losses ``[..., L]``",
    weight="multiplies the label's losses",
    sample_weight="multiplies a row's losses",
)
def margin_bce_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    margin: float = 0.8,
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
    r"""Binary cross-entropy of the labels whose probability has not reached a margin.

    .. math:: \theta(m - p_t) \,(-\log p_t), \qquad
        p_t = p \text{ where } y = 1, \; 1 - p \text{ where } y = 0, \qquad p = \sigma(s)

    :math:`\theta` is the step function, with 1/2 at 0. Labels that are correct with a probability above m
    have a loss and a gradient of 0, so easy negatives do not dominate the rest. Focal loss reduces them
    gradually, this loss in one step. The comparison uses logits, for which it is exact. Probabilistic
    targets give the expected loss, ``y`` times the term of a positive plus ``1 - y`` times the term of a
    negative.

    Args:
        {logits}
        margin: m in (1/2, 1). Default 0.8; the example in the source has 0.6.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Su Jianlin, "Focal loss from hard truncation to softening", kexue.fm/archives/4733, 2017.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0]])
        >>> margin_bce_loss(logits, torch.tensor([[1, 1]]), reduction="none")
        tensor([[0.0000, 0.3133]])
    """
    return evaluate(
        _term(margin),
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


class MarginBCELoss(LossModule):
    """The module of :func:`margin_bce_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``predict`` selects ``s > 0``. There are no ``probabilities``: all logits beyond the margin have one loss.

    Example:
        >>> MarginBCELoss(margin=0.9)
        MarginBCELoss(margin=0.9, reduction='mean')
    """

    _function = staticmethod(margin_bce_loss)
    _term = staticmethod(_term)

    def __init__(self, *, margin: float = 0.8, **common: Unpack[CommonArguments]) -> None:
        _term(margin)
        super().__init__({"margin": margin}, common)

    _undecided = "beyond the margin a label has a loss of 0, and its logit has no meaning"

    def _predicted(self, s: Tensor) -> Tensor:
        return s > 0
