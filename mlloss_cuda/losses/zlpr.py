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
    """Return ``log(1 + sum weight e^x)``, exact also for tiny sums."""
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


_TERM = Term(_SPEC)


def _term(threshold: float | Tensor) -> Term:
    return _TERM if type(threshold) is float and threshold == 0.0 else Term(_SPEC, threshold=threshold)


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
    r"""ZLPR, a softmax-like loss for any number of positives: it ranks positives above 0, and negatives below 0.

    .. math:: \log\Big(1 + \sum_{i \in P} e^{-s_i}\Big) + \log\Big(1 + \sum_{j \in N} e^{s_j}\Big)

    Predict the labels with ``s > threshold``. The gradients of the positives, and those of the
    negatives, sum to less than 1 in absolute value for any L (those of BCE to as much as L), so classes
    need no balancing. The loss is for many labels, of which any number may be true; with one label it is
    BCE. Each log is computed from a maximum of at least 0 and a sum, so nothing overflows, and losses far
    smaller than a rounding error of 1 are exact.

    Probabilistic targets give ``log(1 + sum y e^-s) + log(1 + sum (1 - y) e^s)``. It is strictly
    convex with its optimum at ``y = sigmoid(2 s)``, not ``sigmoid(s)``, and it is not the expected
    hard loss over random labels.

    Args:
        {logits}
        threshold: s0 instead of 0 (TLPR), which gives the loss of ``logits - threshold``: a number, a 0-d
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
    """The module of :func:`zlpr_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``predict`` selects ``s > 0`` after the threshold, which may be infinite there. ``probabilities`` are
    ``sigmoid(2 s)``, the optimum for probabilistic targets. After training with hard labels they rank the labels
    in the same order, but are not frequencies.

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
