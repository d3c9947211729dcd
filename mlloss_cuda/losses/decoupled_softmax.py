"""Softmax cross-entropy of each positive against the negatives alone."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .._dispatch import evaluate
from .._limits import above, exponential_sum, softplus
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._module import LossModule

__all__ = ["DecoupledSoftmaxLoss", "decoupled_softmax_loss"]


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    share = y if w is None else y * w
    m, negatives = exponential_sum(s, torch.where(s > -torch.inf, 1 - y, 0.0), dim)
    # A row without negatives has a loss of 0 for any logits of its positives.
    counts = (share > 0) & (negatives > 0)
    apart = torch.where(negatives > 0, negatives, 1.0).log() - above(torch.where(counts, s, 0.0), m)
    losses = torch.where(counts, share * softplus(torch.where(counts, apart, 0.0)), 0.0)
    return losses.sum(dim) / y.sum(dim).clamp(min=1)


_SPEC = register(
    LossSpec(
        name="decoupled_softmax",
        groupings=("samples",),
        coefficients=4,
        reference=_reference,
        statistics=4,
        softmax_over_labels=True,
        second_pass_sums=2,
    )
)


def _term() -> Term:
    return Term(_SPEC)


@documented(
    none="the rows' losses ``[...]``",
    weight="multiplies the terms whose target is the label, but not the number of terms",
    zero_weight="A positive of weight 0 has no term; negatives compete with any weight.",
)
def decoupled_softmax_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    *,
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
    r"""Softmax cross-entropy of each of a row's positives against its negatives, on average.

    .. math:: \frac{1}{|P|} \sum_{i \in P} \log\Big(1 + \sum_{j \in N} e^{s_j - s_i}\Big)

    This loss is used for dual encoders in extreme classification. Positives do not compete with each
    other: the optimum is 0 for any number k of them. :func:`multi_positive_cross_entropy_loss` in
    contrast is at least ``k log k``, and pushes the highest positive down. With one positive per row,
    the loss is ``torch.nn.functional.cross_entropy``. A row without positives or without negatives has a loss of 0.

    Targets y may be probabilities: y multiplies a label's term, and 1 - y its exponential among the
    negatives. The sum of the terms is divided by the sum of y, or by 1 if the sum of y is less, so the
    loss of a row vanishes with its targets.

    Args:
        {logits}
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Gupta et al., "Dual-Encoders for Extreme Multi-Label Classification", 2024, arXiv:2310.10636.
        The statistics are the negatives' maximum and sum (m, S); the positives' terms are summed in one
        more visit of the row.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, -3.0]])
        >>> decoupled_softmax_loss(logits, torch.tensor([[1, 1, 0]])).item()
        0.0124...
    """
    return evaluate(
        _term(),
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


class DecoupledSoftmaxLoss(LossModule):
    """The module of :func:`decoupled_softmax_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    Example:
        >>> DecoupledSoftmaxLoss(reduction="sum")
        DecoupledSoftmaxLoss(reduction='sum')
    """

    _function = staticmethod(decoupled_softmax_loss)
    _term = staticmethod(_term)

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        super().__init__({}, common)

    _undecided = "it depends on differences of logits only"

    def _predicted(self, s: Tensor) -> Tensor:
        raise self._no_threshold(self._undecided)

    def initial_bias(self, num_labels: int) -> float:
        """Return 0: only differences of logits matter, so any bias is good."""
        return 0.0
