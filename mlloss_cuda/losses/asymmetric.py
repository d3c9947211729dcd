"""Asymmetric loss (ASL): a focal loss with separate powers for positives and negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import saturated, softplus
from .._registry import LossSpec, Term, checked_once, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule
from ._posterior import focal_log_odds

__all__ = ["AsymmetricLoss", "asymmetric_loss"]


def _reference(s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    gamma_neg, gamma_pos, clip, detached, _ = parameters

    def focus(log_miss: Tensor, gamma: float) -> Tensor | float:
        # The gradient of a power is NaN at 0 for gamma < 1; the gradient of this exponential is finite.
        miss = (gamma * log_miss).exp() if gamma else torch.ones_like(log_miss)
        return miss.detach() if detached else miss

    def positive(s: Tensor) -> Tensor:
        return focus(-softplus(saturated(s)), gamma_pos) * softplus(-s)

    def negative(s: Tensor) -> Tensor:
        if clip == 0:
            return focus(-softplus(-saturated(s)), gamma_neg) * softplus(s)
        shifted = torch.sigmoid(s) - clip
        live = ~(shifted <= 0)
        u = torch.where(live, shifted, 0.5)
        # This is 1 - u without cancellation if p is close to 1.
        cost = -torch.log(torch.sigmoid(-torch.where(live, s, 0.0)) + clip)
        return torch.where(live, focus(u.log(), gamma_neg) * cost, 0.0)

    return expectation(s, y, positive, negative)


_SPEC = register(
    LossSpec(
        name="asymmetric",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
    )
)


@checked_once
def _term(gamma_neg: float, gamma_pos: float, clip: float, detach_focal_weight: bool) -> Term:
    gamma_neg = check.check_number("gamma_neg", gamma_neg, 0.0)
    gamma_pos = check.check_number("gamma_pos", gamma_pos, 0.0)
    clip = check.check_number("clip", clip, 0.0, 1.0, open_high=True)
    detached = float(check.check_bool("detach_focal_weight", detach_focal_weight))
    # The logit below which a negative costs nothing.
    least = math.log(clip / (1 - clip)) if clip > 0 else -math.inf
    return Term(_SPEC, (gamma_neg, gamma_pos, clip, detached, least))


@documented(
    none="the elements' losses ``[..., L]``",
    weight="multiplies the label's losses",
    sample_weight="multiplies a row's losses",
)
def asymmetric_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    detach_focal_weight: bool = False,
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
    r"""Asymmetric loss: a focal loss that reduces easy negatives more than positives, and ignores the easiest.

    .. math:: (1 - p)^{\gamma_+} (-\log p) \text{ where } y = 1, \qquad
        p_m^{\gamma_-} (-\log (1 - p_m)) \text{ where } y = 0, \qquad p_m = \max(p - m, 0)

    It is the usual choice for image tagging, in which labels are missing more often than wrong. It has
    no eps: value and gradient are finite for every gamma >= 0 at every finite logit, positives far below
    0 keep their gradient, and float16 logits are safe. Probabilistic targets give the expected loss,
    ``y`` times the term of a positive plus ``1 - y`` times the term of a negative.

    Args:
        {logits}
        gamma_neg: >= 0, the power that reduces easy negatives. Default 4.0.
        gamma_pos: >= 0, the power that reduces easy positives. Default 1.0.
        clip: m in [0, 1); negatives with a smaller probability have a loss of 0. Default 0.05.
        detach_focal_weight: treat the powers as constants in the gradient. The authors' code has both
            variants: ``AsymmetricLoss`` detaches them by default, ``AsymmetricLossOptimized`` does not.
            Default False, which gives the derivative of the formula.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Ridnik et al., "Asymmetric Loss For Multi-Label Classification", 2021, arXiv:2009.14119,
        which also has the defaults.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0]])
        >>> asymmetric_loss(logits, torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.0151, 0.0006]])
    """
    return evaluate(
        _term(gamma_neg, gamma_pos, clip, detach_focal_weight),
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


class AsymmetricLoss(LossModule):
    """The module of :func:`asymmetric_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``probabilities`` is the q whose expected loss is minimal at s (with ``detach_focal_weight``, whose expected
    gradient is 0), and 0 below the clip. It has a closed form, like that of focal loss. With the defaults, q = 1/2
    is near ``sigmoid(s) = 0.64``, which is the threshold of ``predict``.

    Example:
        >>> AsymmetricLoss(clip=0.0)
        AsymmetricLoss(gamma_neg=4.0, gamma_pos=1.0, clip=0.0, detach_focal_weight=False, reduction='mean')
    """

    _function = staticmethod(asymmetric_loss)
    _term = staticmethod(_term)
    gamma_neg: float
    gamma_pos: float
    clip: float
    detach_focal_weight: bool

    def __init__(
        self,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        detach_focal_weight: bool = False,
        **common: Unpack[CommonArguments],
    ) -> None:
        _term(gamma_neg, gamma_pos, clip, detach_focal_weight)
        own = {
            "gamma_neg": gamma_neg,
            "gamma_pos": gamma_pos,
            "clip": clip,
            "detach_focal_weight": detach_focal_weight,
        }
        super().__init__(own, common)

    def _log_odds(self, s: Tensor) -> Tensor:
        return focal_log_odds(s, self.gamma_pos, self.gamma_neg, self.clip, self.detach_focal_weight)
