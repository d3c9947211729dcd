"""ZLPR: the zero-bounded log-sum-exp & pairwise rank-based loss."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import _validation as check
from .._dispatch import evaluate
from .._limits import exponential_sum
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._module import LossModule

__all__ = ["ZLPRLoss", "zlpr_loss"]


def _zero_bounded(x: Tensor, weight: Tensor, dim: tuple[int, ...]) -> Tensor:
    """``log(1 + sum weight e^x)``, exact for tiny sums too."""
    m, total = exponential_sum(x, weight, dim, least=0.0)
    return (m + torch.log1p(total + torch.expm1(-m))).sum(dim)


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    w = torch.ones_like(y) if w is None else w
    return _zero_bounded(s, (1 - y) * w, dim) + _zero_bounded(-s, y * w, dim)


_SPEC = register(
    LossSpec(
        name="zlpr",
        groupings=("samples",),
        coefficients=4,
        reference=_reference,
        statistics=4,
    )
)


def _term(threshold: float | Tensor) -> Term:
    return Term(_SPEC, threshold=threshold)


@documented(
    none="the rows' losses ``[...]``",
    weight="multiplies the label's exponential inside the sum",
    learnable=", threshold, logit_scale and logit_bias",
)
def zlpr_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
    threshold: float | Tensor = 0.0,
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
    r"""ZLPR, a softmax-like loss for any number of positives: a row's positives against 0, and 0 against its negatives.

    .. math:: \log\Big(1 + \sum_{i \in P} e^{-s_i}\Big) + \log\Big(1 + \sum_{j \in N} e^{s_j}\Big)

    Predict the labels with ``s > threshold``. The gradient of each side sums to less than 1 in
    absolute value, at any L (that of BCE to as much as L), so classes need no balancing. For many
    labels, any number of them true; with one label it is BCE. Each log is kept as a maximum of at
    least 0 and a sum: no overflow, and losses far below a rounding of 1 survive.

    Probabilistic targets give ``log(1 + sum y e^-s) + log(1 + sum (1 - y) e^s)``. It is strictly
    convex with its optimum at ``y = sigmoid(2 s)``, not ``sigmoid(s)``, and it is not the expected
    hard loss over random labels.

    Args:
        {logits}
        threshold: s0 in place of 0 (TLPR), the loss of ``logits - threshold``: a number, a 0-d
            tensor, or a tensor that broadcasts to rows ``[..., 1]`` or to labels ``[L]``. Tensors may
            require gradients. Default 0.0.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Su, Zhu, Murtadha, Pan, Wen, Liu, "ZLPR: A Novel Loss for Multi-label Classification", 2022,
        arXiv:2208.02955.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0, -3.0]])
        >>> zlpr_loss(logits, torch.tensor([[1, 0, 0]])).item()
        0.4759...
    """
    return evaluate(
        _term(threshold),
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


class ZLPRLoss(LossModule):
    """The module of :func:`zlpr_loss`: its arguments but ``sample_weight``, which the call takes.

    ``predict`` takes ``s > 0``, after the threshold, which may be infinite there. ``probabilities`` are
    ``sigmoid(2 s)``, the optimum for probabilistic targets; after hard labels they rank alike, but are no
    frequencies.

    Example:
        >>> ZLPRLoss(threshold=0.5)
        ZLPRLoss(threshold=0.5, reduction='mean')
    """

    _function = staticmethod(zlpr_loss)
    _term = staticmethod(_term)

    def __init__(self, *, threshold: float | Tensor = 0.0, **common: Unpack[CommonArguments]) -> None:
        if not isinstance(threshold, Tensor):
            check.check_number("threshold", threshold)
        super().__init__({"threshold": threshold}, common)

    def _log_odds(self, s: Tensor) -> Tensor:
        return 2 * s
