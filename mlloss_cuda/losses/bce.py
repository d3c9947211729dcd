"""Binary cross-entropy with logits."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import softplus, weighed
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule

__all__ = ["BCEWithLogitsLoss", "bce_with_logits_loss"]


def _reference(
    s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...], label_parameter: Tensor | None
) -> Tensor:
    pos_weight = parameters[0] if label_parameter is None else parameters[0] * label_parameter
    return expectation(s, y, lambda s: weighed(pos_weight, softplus(-s)), softplus)


_SPEC = register(
    LossSpec(
        name="bce_with_logits",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
        label_parameter=True,
    )
)


def _term(pos_weight: float | Tensor | None) -> Term:
    if isinstance(pos_weight, Tensor):
        return Term(_SPEC, (1.0,), label_parameter=("pos_weight", pos_weight))
    return Term(_SPEC, (1.0 if pos_weight is None else check.check_number("pos_weight", pos_weight, 0.0),))


@documented(
    none="the elements' losses ``[..., L]``",
    weight="multiplies the label's losses",
    sample_weight="multiplies a row's losses",
)
def bce_with_logits_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    pos_weight: float | Tensor | None = None,
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
    r"""Binary cross-entropy of independent sigmoids, from logits.

    .. math:: -q\,y \log p - (1 - y) \log (1 - p), \qquad p = \sigma(s)

    This is the loss to start with if labels are few and balanced: its optimum is ``p = y``, so its
    probabilities are calibrated. With many labels, nearly all of its gradient comes from negatives.
    ``torch.nn.functional.binary_cross_entropy_with_logits`` has the same value; this function also
    accepts every form of targets, and is correct at infinite logits.

    Args:
        {logits}
        pos_weight: q, a number or ``[L]``, finite, >= 0: multiplies the term of positives. It must
            not require a gradient. Default None, which is 1.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Every textbook has the definition. log(1 + e^s) is computed as ``max(s, 0) + log1p(e^-|s|)``.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0]])
        >>> bce_with_logits_loss(logits, torch.tensor([[1, 0]])).item()
        0.2200...
    """
    return evaluate(
        _term(pos_weight),
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


class BCEWithLogitsLoss(LossModule):
    """The module of :func:`bce_with_logits_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``probabilities`` are ``sigmoid(s - log pos_weight)``, so ``predict`` selects labels with a probability above 1/2
    for any weight of the positives. They are NaN if that weight is 0.

    Example:
        >>> BCEWithLogitsLoss(pos_weight=2.0)
        BCEWithLogitsLoss(pos_weight=2.0, reduction='mean')
    """

    _function = staticmethod(bce_with_logits_loss)
    _term = staticmethod(_term)

    def __init__(self, *, pos_weight: float | Tensor | None = None, **common: Unpack[CommonArguments]) -> None:
        _term(pos_weight)
        if isinstance(pos_weight, Tensor) and pos_weight.dim() != 1:
            raise ValueError(f"pos_weight: expected shape [L] or a number, got {tuple(pos_weight.shape)}")
        super().__init__({"pos_weight": pos_weight}, common)

    def _log_odds(self, s: Tensor) -> Tensor:
        if self.pos_weight is None:
            return s
        q = torch.as_tensor(self.pos_weight, dtype=s.dtype, device=s.device)
        # If positives have no loss, the logits determine no probability, and the result is NaN.
        return torch.where(q > 0, s - q.log(), torch.nan)
