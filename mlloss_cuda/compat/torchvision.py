"""``torchvision.ops.sigmoid_focal_loss``, fused, as in pytorch/vision, ``torchvision/ops/focal_loss.py`` (0.28)."""

from __future__ import annotations

from torch import Tensor

from .. import _validation as check
from ..losses import sigmoid_focal_loss as _fused
from ..targets import CSRTargets

__all__ = ["sigmoid_focal_loss"]

REDUCTIONS = ("none", "mean", "sum")


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor | CSRTargets, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """torchvision's focal loss with its defaults: no reduction, and no class weights for a negative ``alpha``.

    It has the original's definition, for probabilistic targets too. Unlike the original it is finite for
    ``0 < gamma < 1``, takes targets of any dtype, and gives float32 for float16 and bfloat16.

    Args:
        inputs: logits of any shape.
        targets: values in [0, 1], of the same shape.
        alpha: in [0, 1], the positives' weight; negative for no weights. Default 0.25.
        gamma: >= 0. Default 2.
        reduction: ``"none"`` (default), ``"mean"`` or ``"sum"``.

    Returns:
        A tensor of the inputs' shape, or 0-d.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes do not fit, or a value is out of range.

    Example:
        >>> from mlloss_cuda.compat.torchvision import sigmoid_focal_loss
        >>> sigmoid_focal_loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[0.0005, 0.0170]])
    """
    check.check_choice("reduction", reduction, REDUCTIONS)
    weight = None if check.check_number("alpha", alpha) < 0 else alpha
    if not isinstance(inputs, Tensor) or inputs.dim() > 0:
        return _fused(inputs, targets, alpha=weight, gamma=gamma, reduction=reduction)
    one = targets.reshape(1) if isinstance(targets, Tensor) else targets
    return _fused(inputs.reshape(1), one, alpha=weight, gamma=gamma, reduction=reduction).reshape(())
