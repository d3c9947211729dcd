"""Asymmetric loss (ASL): focal loss with a side for positives and one for negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import saturated, softplus
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule
from ._posterior import focal_log_odds

__all__ = ["AsymmetricLoss", "asymmetric_loss"]


def _reference(s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    gamma_neg, gamma_pos, clip, detached, _ = parameters

    def focus(log_miss: Tensor, gamma: float) -> Tensor | float:
        # A power's gradient is NaN at 0 for gamma < 1: an exponential's is not.
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
        # 1 - u, without its cancellation where p is nearly 1.
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
    r"""Asymmetric loss: a focal loss that turns easy negatives down further than positives, and drops the easiest.

    .. math:: (1 - p)^{\gamma_+} (-\log p) \text{ where } y = 1, \qquad
        p_m^{\gamma_-} (-\log (1 - p_m)) \text{ where } y = 0, \qquad p_m = \max(p - m, 0)

    The usual choice for image tagging, where a label is missing more often than wrong. It has no eps:
    value and gradient are finite for every gamma >= 0 at every finite logit, positives far below 0
    keep their gradient, and float16 logits are safe. Probabilistic targets give the expected loss,
    ``y`` times the positive's term and ``1 - y`` times the negative's.

    Args:
        {logits}
        gamma_neg: >= 0, how far easy negatives are turned down. Default 4.0.
        gamma_pos: >= 0, the same for positives. Default 1.0.
        clip: m in [0, 1); negatives with a probability below it cost nothing. Default 0.05.
        detach_focal_weight: take the powers for constants in the gradient. The authors' own code has
            both: ``AsymmetricLoss`` detaches them by default, ``AsymmetricLossOptimized`` does not.
            Default False, the derivative of the formula.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Ridnik et al., "Asymmetric Loss For Multi-Label Classification", 2021, arXiv:2009.14119;
        defaults from there.

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
    """The module of :func:`asymmetric_loss`: its arguments but ``sample_weight``, which the call takes.

    ``probabilities`` is the q whose expected loss is least at s (with ``detach_focal_weight``, whose
    expected gradient is 0), 0 below the clip: a closed form, as focal loss has. By default q = 1/2 lies near
    ``sigmoid(s) = 0.67``, and that is where ``predict`` cuts.

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
