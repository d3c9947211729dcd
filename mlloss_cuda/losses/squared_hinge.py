"""Squared hinge loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from .._dispatch import evaluate
from .._registry import LossSpec, Term, register
from ..targets import CSRTargets
from ._arguments import CommonArguments, documented
from ._expectation import expectation
from ._module import LossModule

__all__ = ["SquaredHingeLoss", "squared_hinge_loss"]


def _reference(s: Tensor, y: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    return expectation(s, y, lambda s: F.relu(1 - s).square(), lambda s: F.relu(1 + s).square())


_SPEC = register(
    LossSpec(
        name="squared_hinge",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
    )
)


def _term() -> Term:
    return Term(_SPEC)


@documented(
    none="the elements' losses ``[..., L]``",
    weight="multiplies the label's losses",
    sample_weight="multiplies a row's losses",
)
def squared_hinge_loss(
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
    r"""Squared hinge loss: the square of the distance by which a label's logit misses a margin of 1.

    .. math:: \max(0, 1 - z)^2, \qquad z = s \text{ where } y = 1, \; -s \text{ where } y = 0

    Linear one-versus-rest classifiers in extreme classification use it (DiSMEC, ProXML, Renee). It has
    no exponential, and labels beyond the margin have a gradient of 0. Predict the labels with ``s > 0``,
    or by rank. Probabilistic targets give the expected loss, ``y`` times the term of a positive plus
    ``1 - y`` times the term of a negative, with its minimum at ``s = 2 y - 1``. In float32 it overflows
    only for logits beyond 1e19.

    Args:
        {logits}
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Babbar, Schölkopf, "DiSMEC: Distributed Sparse Machines for Extreme Multi-label
        Classification", 2017, arXiv:1609.02521.

    Example:
        >>> logits = torch.tensor([[2.0, -0.5]])
        >>> squared_hinge_loss(logits, torch.tensor([[1, 0]]), reduction="none")
        tensor([[0.0000, 0.2500]])
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


class SquaredHingeLoss(LossModule):
    """The module of :func:`squared_hinge_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    ``probabilities`` are ``(1 + s) / 2`` clamped to [0, 1], where the expected loss is minimal (Zhang, "Statistical
    behavior and consistency of classification methods based on convex risk minimization", 2004).

    Example:
        >>> SquaredHingeLoss(reduction="sum")
        SquaredHingeLoss(reduction='sum')
    """

    _function = staticmethod(squared_hinge_loss)
    _term = staticmethod(_term)

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        super().__init__({}, common)

    def _probability(self, s: Tensor) -> Tensor:
        return ((1 + s) / 2).clamp(0, 1)

    def _predicted(self, s: Tensor) -> Tensor:
        return s > 0

    def initial_bias(self, num_labels: int) -> float:
        """Return -1: negatives then start at their margin, with a gradient of 0."""
        return -1.0
