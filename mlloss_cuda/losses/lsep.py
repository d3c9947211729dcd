"""LSEP: log-sum-exp over all pairs of a positive and a negative."""

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

__all__ = ["LSEPLoss", "lsep_loss"]


def _reference(
    s: Tensor, y: Tensor, soft: bool, w: Tensor | None, parameters: tuple[float, ...], dim: tuple[int, ...]
) -> Tensor:
    w = torch.ones_like(y) if w is None else w
    highest, negatives = exponential_sum(s, (1 - y) * w, dim)
    lowest, positives = exponential_sum(-s, y * w, dim)
    some = (negatives > 0) & (positives > 0)
    # This is log(1 + the sum over pairs of e^(s_j - s_i)); the sum is a product of two sums.
    logs = torch.where(some, negatives, 1.0).log() + torch.where(some, positives, 1.0).log()
    pairs = torch.where(some, above(highest, -lowest) + logs, -torch.inf)
    return softplus(pairs).sum(dim)


_SPEC = register(
    LossSpec(
        name="lsep",
        groupings=("samples",),
        coefficients=4,
        reference=_reference,
        statistics=5,
    )
)


def _term() -> Term:
    return Term(_SPEC)


@documented(
    none="the rows' losses ``[...]``",
    weight="multiplies the label's exponential inside its sum",
)
def lsep_loss(
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
    r"""LSEP, a smooth ranking loss: every positive should have a higher logit than every negative of its row.

    .. math:: \log\Big(1 + \sum_{i \in P} \sum_{j \in N} e^{s_j - s_i}\Big)

    It suits retrieval and precision at k. One pass covers all pairs, because the sum over pairs is a
    product of two sums; log-sum-exps keep these sums and their product from overflowing. The loss
    depends on differences of logits only, so it ranks labels and has no threshold. :func:`zlpr_loss` is
    the same with a threshold of 0 among the logits, and is never below LSEP. A row without positives or
    without negatives has a loss of 0. Probabilistic targets weight both sums:
    ``log(1 + (sum y e^-s)(sum (1 - y) e^s))``.

    Args:
        {logits}
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Li, Song, Luo, "Improving Pairwise Ranking for Multi-label Image Classification", 2017,
        arXiv:1704.03135, which samples pairs; this function uses all pairs.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0, -3.0]])
        >>> lsep_loss(logits, torch.tensor([[1, 0, 0]])).item()
        0.0549...
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


class LSEPLoss(LossModule):
    """The module of :func:`lsep_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    It ranks labels, and has neither ``predict`` nor ``probabilities``; :func:`mlloss_cuda.fit_thresholds` finds
    thresholds.

    Example:
        >>> LSEPLoss(reduction="sum")
        LSEPLoss(reduction='sum')
    """

    _function = staticmethod(lsep_loss)
    _term = staticmethod(_term)

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        super().__init__({}, common)

    _undecided = "it depends on differences of logits only"

    def _predicted(self, s: Tensor) -> Tensor:
        raise self._no_threshold(self._undecided)

    def initial_bias(self, num_labels: int) -> float:
        """Return 0: only differences of logits matter, so any bias is good."""
        return 0.0
