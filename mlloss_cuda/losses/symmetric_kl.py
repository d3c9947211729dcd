"""Symmetric Kullback-Leibler divergence between two passes."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import evaluate
from .._limits import saturated
from .._registry import LossSpec, Term, register
from ._arguments import DEFAULTS, documented
from ._module import LossModule

__all__ = ["SymmetricKLLoss", "symmetric_kl_loss"]


def _reference(s: Tensor, t: Tensor, soft: bool, parameters: tuple[float, ...]) -> Tensor:
    # Equal infinities have a difference of 0.
    apart = torch.where(s.isinf() & (s == t), 0.0, s - t)
    return (saturated(s).sigmoid() - saturated(t).sigmoid()) * apart


_SPEC = register(
    LossSpec(
        name="symmetric_kl",
        groupings=("element",),
        coefficients=0,
        reference=_reference,
        second_logits=True,
    )
)


_TAKEN = ("weight", "logit_scale", "normalizer", "reduction")  # the common arguments that two logits can have
_OTHERS = {name: default for name, default in DEFAULTS.items() if name not in _TAKEN}


def _term() -> Term:
    return Term(_SPEC)


@documented(none="", weight="")
def symmetric_kl_loss(
    logits: Tensor,
    other_logits: Tensor,
    *,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    logit_scale: float | Tensor = 1.0,
    normalizer: float | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The symmetric divergence of two passes over the same input, for each label.

    .. math:: \big(\sigma(s) - \sigma(t)\big)(s - t)

    It is the sum of the two Kullback-Leibler divergences between the probabilities ``sigmoid(s)`` and
    ``sigmoid(t)`` of a label. R-Drop adds it to the losses of two passes that differ in their dropout,
    so that a model agrees with itself. It is symmetric, 0 for equal logits, and exact even if both
    logits are so large that their sigmoids round to 1. At an infinite logit, value and gradients take
    their limits. Detach one of the two logits to train the other one only.

    Args:
        logits: s, ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or
            not. They are never changed.
        other_logits: t, of the same shape, dtype and device. There are no targets, so there is no
            smoothing and no ``ignore_index``.
        weight: ``[L]``, finite, >= 0; multiplies the label's divergences. A label of weight 0 is
            excluded. It must not require a gradient. Default None.
        sample_weight: ``[...]``, finite, >= 0; multiplies a row's divergences. It must not
            require a gradient. Default None.
        logit_scale: a number or a tensor of one element that multiplies both logits, the inverse of a
            temperature. A tensor may require a gradient. Default 1.
        normalizer: a number or 0-d tensor >= 0 that divides a ``"sum"`` before the gradients are
            rounded; with 0, a sum of 0 becomes NaN. Default None.
        reduction: ``"none"`` gives the elements' divergences ``[..., L]``, ``"sum"`` their sum,
            ``"mean"`` (default) their mean, ``"batchmean"`` their sum over the number of rows.
            The counts include weighted ones.

    Returns:
        float32 (float64 for float64 logits), differentiable once in logits, other_logits and
        logit_scale. One pass forms the gradients of both logits; a learnable logit_scale takes a pass for each.

    Raises:
        {raises}

    Source:
        Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, arXiv:2106.14448; for
        many labels Su Jianlin, kexue.fm/archives/9039, 2022.

    Example:
        >>> symmetric_kl_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 1.0]]), reduction="none")
        tensor([[0.7616, 0.0000]])
    """
    return evaluate(
        _term(),
        logits,
        other_logits,
        weight=weight,
        sample_weight=sample_weight,
        logit_scale=logit_scale,
        normalizer=normalizer,
        reduction=reduction,
        **_OTHERS,
    )


class SymmetricKLLoss(LossModule):
    """The module of :func:`symmetric_kl_loss`. Its arguments are the same, but each call takes ``sample_weight``.

    Example:
        >>> loss = SymmetricKLLoss(reduction="sum")
        >>> loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        tensor(0.7616)
    """

    _function = staticmethod(symmetric_kl_loss)
    _term = staticmethod(_term)
    _common = _TAKEN

    def __init__(
        self,
        *,
        weight: Tensor | None = None,
        logit_scale: float | Tensor = 1.0,
        normalizer: float | Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            {},
            {"weight": weight, "logit_scale": logit_scale, "normalizer": normalizer, "reduction": reduction},
        )

    def forward(  # type: ignore[override]
        self, logits: Tensor, other_logits: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss; shapes are those of the function of the same name."""
        return super().forward(logits, other_logits, sample_weight)

    _undecided = "it compares two passes, and does not depend on labels"

    def _predicted(self, s: Tensor) -> Tensor:
        raise self._no_threshold(self._undecided)
