"""Sigmoid focal loss, which includes binary cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import saturated, softplus, weighed
from .._registry import LossSpec, Term, checked_once, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule
from ._posterior import focal_log_odds

__all__ = ["SigmoidFocalLoss", "sigmoid_focal_loss"]


def _reference(s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    gamma, negative, positive = parameters
    if not soft:
        z = torch.where(y > 0, s, -s)
        hard = (y > 0).to(s.dtype)
        alpha = positive * hard + negative * (1 - hard)
        # (1 - p_t)^gamma is an exponential here, because the gradient of a power is NaN at p_t = 1 for gamma < 1.
        miss = (-gamma * softplus(saturated(z))).exp() if gamma else 1.0
        return weighed(alpha, miss * softplus(-z))
    ce = expectation(s, y, lambda s: softplus(-s), softplus)
    log_p, log_q = -softplus(-saturated(s)), -softplus(saturated(s))
    inner = torch.logaddexp(log_p + torch.log1p(-y), log_q + torch.log(y))
    log_miss = torch.where(y <= 0, log_p, torch.where(y >= 1, log_q, inner))
    miss = (gamma * log_miss).exp() if gamma else 1.0
    return weighed(positive * y + negative * (1 - y), miss * ce)


_SPEC = register(
    LossSpec(
        name="sigmoid_focal",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
    )
)


@checked_once
def _term(alpha: float | None, gamma: float, rescale: bool = False) -> Term:
    gamma = check.check_number("gamma", gamma, 0.0)
    if alpha is None:
        return Term(_SPEC, (gamma, 1.0, 1.0), alone=rescale)
    alpha = check.check_number("alpha", alpha, 0.0, 1.0)
    return Term(_SPEC, (gamma, 1.0 - alpha, alpha), alone=rescale)


def _check_rescale(rescale: bool, reduction: str) -> None:
    if check.check_bool("rescale", rescale) and reduction == "none":
        raise ValueError("rescale: expected a reduction other than 'none' with it, because it is a ratio of sums")


@documented(
    none="the elements' losses ``[..., L]``",
    weight="multiplies the label's losses",
    sample_weight="multiplies a row's losses",
)
def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    rescale: bool = False,
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
    r"""Focal loss of independent sigmoids: cross-entropy in which easy elements have less weight.

    .. math:: \alpha_t (1 - p_t)^\gamma \,(-\log p_t), \qquad
        p_t = p \text{ where } y = 1, \; 1 - p \text{ where } y = 0

    With ``gamma=0`` and ``alpha=None`` it is binary cross-entropy. Probabilistic targets use
    ``1 - p_t = p (1 - y) + (1 - p) y`` and ``alpha_t = alpha y + (1 - alpha)(1 - y)``, as in
    torchvision. The loss is for data with a large majority of easy negatives; its optimum is not a
    calibrated probability. Powers are computed as exponentials of softplus, so value and gradient are
    finite for every gamma >= 0 at every finite logit.

    Args:
        {logits}
        alpha: the weight of positives, in [0, 1]; negatives have ``1 - alpha``. None gives both a weight
            of 1. Default 0.25.
        gamma: >= 0, the power that reduces easy elements. Default 2.0.
        rescale: multiply by ``sum CE / sum focal`` over all reduced elements, as a constant for the
            gradient: the value is then that of cross-entropy, and the gradient is that of focal loss,
            scaled to match. (With a differentiated factor, the gradient would be that of cross-entropy.)
            It costs a second read of the logits, and excludes ``reduction="none"``. Default False.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", 2017,
        arXiv:1708.02002, which also has the defaults.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0]])
        >>> sigmoid_focal_loss(logits, torch.tensor([[1, 0]]), alpha=None, gamma=0.0).item()
        0.2200...
    """
    common: dict[str, Any] = {
        "weight": weight,
        "sample_weight": sample_weight,
        "label_smoothing": label_smoothing,
        "ignore_index": ignore_index,
        "logit_scale": logit_scale,
        "logit_bias": logit_bias,
        "normalizer": normalizer,
        "reduction": reduction,
        "inplace_backward": inplace_backward,
    }
    term = _term(alpha, gamma)
    _check_rescale(rescale, reduction)
    if not rescale:
        return evaluate(term, logits, targets, **common)
    # Cross-entropy comes first, because the forward of focal loss may overwrite the logits.
    with torch.no_grad():
        ce = evaluate(_term(None, 0.0), logits, targets, **{**common, "inplace_backward": False})
    focal = evaluate(term, logits, targets, **common)
    total = focal.detach()
    # A focal loss of 0 is not rescaled.
    return focal * torch.where(total == 0, 1.0, ce / torch.where(total == 0, 1.0, total))


class SigmoidFocalLoss(LossModule):
    """The module of :func:`sigmoid_focal_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    Focal loss is not a proper scoring rule: ``sigmoid(s)`` is not a probability. ``probabilities`` is the q
    whose expected loss, over hard labels, is minimal at s, with the effect of ``alpha`` removed:
    ``q / (1 - q) = (1 - alpha) / alpha * h(p) / h(1 - p)``,
    ``h(v) = v / ((1 - v)^gamma - gamma (1 - v)^(gamma - 1) v log v)``. Source: Charoenphakdee, Vongkulbhisal,
    Chairatanakul, Sugiyama, "On Focal Loss for Class-Posterior Probability Estimation", CVPR 2021,
    arXiv:2011.09172; see also Mukhoti et al., "Calibrating Deep Neural Networks using Focal Loss", 2020,
    arXiv:2002.09437.

    Example:
        >>> SigmoidFocalLoss(alpha=None)
        SigmoidFocalLoss(alpha=None, gamma=2.0, rescale=False, reduction='mean')
    """

    _function = staticmethod(sigmoid_focal_loss)
    _term = staticmethod(_term)
    alpha: float | None
    gamma: float

    def __init__(
        self,
        *,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        rescale: bool = False,
        **common: Unpack[CommonArguments],
    ) -> None:
        _term(alpha, gamma)
        _check_rescale(rescale, common.get("reduction", "mean"))
        super().__init__({"alpha": alpha, "gamma": gamma, "rescale": rescale}, common)

    def _log_odds(self, s: Tensor) -> Tensor:
        odds = focal_log_odds(s, self.gamma, self.gamma)
        if self.alpha is None:
            return odds
        if self.alpha in (0, 1):
            raise self._no_probabilities(f"with alpha={self.alpha!r} either positives or negatives have no loss")
        return odds + math.log((1 - self.alpha) / self.alpha)
