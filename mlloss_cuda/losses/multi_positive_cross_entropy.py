"""Softmax cross-entropy with any number of positives."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .._dispatch import evaluate
from .._limits import above, exponential_sum
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._module import LossModule

__all__ = ["MultiPositiveCrossEntropyLoss", "multi_positive_cross_entropy_loss"]


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    share = y if w is None else y * w
    competes = torch.ones_like(y) if w is None else ((w > 0) | (s > -torch.inf)).to(y.dtype)
    m, total = exponential_sum(s, competes, dim)
    log_total = torch.where(total == 0, 1.0, total).log()
    return torch.where(share > 0, share * (log_total - above(s, m)), 0.0).sum(dim)


_SPEC = register(
    LossSpec(
        name="multi_positive_cross_entropy",
        groupings=("samples",),
        coefficients=3,
        reference=_reference,
        statistics=5,
        softmax_over_labels=True,
    )
)


def _term() -> Term:
    return Term(_SPEC)


@documented(
    none="the rows' losses ``[...]``",
    weight="multiplies the terms whose target is the label",
    zero_weight="A label of weight 0 is no target, but competes, as in ``F.cross_entropy``.",
)
def multi_positive_cross_entropy_loss(
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
    r"""Softmax cross-entropy summed over a row's positives.

    .. math:: \sum_i y_i \,\big(\log \textstyle\sum_j e^{s_j} - s_i\big)

    It suits tag prediction and retrieval, for which only the first labels matter: labels compete, so
    positives and negatives need no balancing. Positives compete too: the optimum divides the probability
    among them, and the loss of a row with k of them is at least ``k log k``. Targets may be
    probabilities, or any other shares. With one positive per row, the loss is
    ``torch.nn.functional.cross_entropy``. A row without positives has a loss of 0.

    Args:
        {logits}
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Joulin et al., "Learning Visual Features from Large Weakly Supervised Data", 2016,
        arXiv:1511.02251; Su Jianlin, kexue.fm/archives/7359, 2020. The statistics are k = sum y and
        sum y (m - s), beside (m, S) of the log-sum-exp, so nothing cancels.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, -3.0]])
        >>> multi_positive_cross_entropy_loss(logits, torch.tensor([[1, 1, 0]])).item()
        1.6363...
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


class MultiPositiveCrossEntropyLoss(LossModule):
    """The module of :func:`multi_positive_cross_entropy_loss`.

    It stores the arguments except ``sample_weight``, which each call passes. It ranks labels, and has neither
    ``predict`` nor ``probabilities``. ``softmax(logits)`` is each label's share of a row's positives;
    :func:`mlloss_cuda.fit_thresholds` finds thresholds.

    Example:
        >>> MultiPositiveCrossEntropyLoss(reduction="sum")
        MultiPositiveCrossEntropyLoss(reduction='sum')
    """

    _function = staticmethod(multi_positive_cross_entropy_loss)
    _term = staticmethod(_term)

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        super().__init__({}, common)

    _undecided = "softmax(logits) is a label's share of a row's positives, for any number of them"

    def _predicted(self, s: Tensor) -> Tensor:
        raise self._no_threshold(self._undecided)

    def initial_bias(self, num_labels: int) -> float:
        """Return 0: only differences of logits matter, so any bias is good."""
        return 0.0
