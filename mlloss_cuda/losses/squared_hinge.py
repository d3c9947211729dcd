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
    r"""Squared hinge loss: the square of what a label's logit lacks to a margin of 1.

    .. math:: \max(0, 1 - z)^2, \qquad z = s \text{ where } y = 1, \; -s \text{ where } y = 0

    The loss of linear one-versus-rest classifiers in extreme classification (DiSMEC, ProXML, Renee):
    no exponential, and labels beyond the margin have no gradient at all. Predict the
    labels with ``s > 0``, or by rank. Probabilistic targets give the expected loss, ``y``
    times the positive's term and ``1 - y`` times the negative's: least at ``s = 2 y - 1``. In float32 it
    overflows for logits beyond 1e19 only.

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
    """The module of :func:`squared_hinge_loss`: its arguments but ``sample_weight``, which the call takes.

    ``probabilities`` are ``(1 + s) / 2`` within [0, 1], where the expected loss is least (Zhang, "Statistical
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
        """Negatives begin at their margin, without a gradient."""
        return -1.0
