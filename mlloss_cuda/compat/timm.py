"""The multi-label losses of huggingface/pytorch-image-models, ``timm/loss`` (1.0.31), fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _ops
from .. import _validation as check
from ..losses import asymmetric_loss, bce_with_logits_loss, zlpr_loss
from ..targets import CSRTargets
from ._soft import SoftTargets
from .asl import INTERPOLATES

__all__ = ["AsymmetricLossMultiLabel", "BinaryCrossEntropy", "ZlprLoss"]

REDUCTIONS = ("mean", "sum", "none")


def _as_weight(value: Tensor | float | None) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.tensor(check.check_number("pos_weight", value, 0.0))


def _smoothed_to_half(target: Tensor | CSRTargets, x: Tensor, smoothing: float) -> Tensor:
    """Smooth dense targets of the logits' shape towards 1/2."""
    if not isinstance(target, Tensor) or target.layout != torch.strided:
        raise TypeError("target: expected a dense tensor with smoothing, which leaves no target 0, got a sparse one")
    if target.shape != x.shape:
        raise ValueError(f"target: expected the logits' shape {tuple(x.shape)}, got {tuple(target.shape)}")
    return target.to(_ops.compute_dtype(x)) * (1 - smoothing) + 0.5 * smoothing


def _above(target: Tensor | CSRTargets, threshold: float) -> Tensor | CSRTargets:
    """Return which targets are above ``threshold``; unknown labels of sparse targets stay unknown.

    The threshold of sparse targets must be in [0, 1).
    """
    if isinstance(target, Tensor) and target.layout == torch.strided:
        return target if target.dtype == torch.bool and 0 <= threshold < 1 else target > threshold
    sparse = CSRTargets.from_sparse(target) if isinstance(target, Tensor) else target
    if not 0 <= threshold < 1:
        raise ValueError(f"target_threshold: expected in [0, 1) for sparse targets, got {threshold!r}")
    if sparse.values is None:
        return sparse
    values = torch.where(sparse.values < 0, sparse.values, (sparse.values > threshold).to(sparse.values.dtype))
    return sparse._replace(values=values)


class AsymmetricLossMultiLabel(SoftTargets):
    """timm's ASL: the sum over labels and mean over rows, with differentiated powers.

    For 0/1 targets it has the original's definition without ``eps``, see
    :class:`mlloss_cuda.compat.asl.AsymmetricLoss`. Targets between 0 and 1 give the expected loss, while the original
    interpolates the powers; such targets give a warning, on the CPU, once. ``smoothing`` makes every target such a
    target; then PyTorch computes the original's definition, for dense targets only.

    Args:
        gamma_neg, gamma_pos: >= 0. Defaults 4 and 1.
        clip: in [0, 1), or None for 0. Default 0.05.
        eps: the lower bound of probabilities under ``smoothing``; otherwise without effect. Default 1e-8.
        disable_torch_grad_focal_loss: treat the powers as constants in the gradient. Default False.
        smoothing: e in [0, 1): targets become ``(1 - e) y + e / 2``. Default 0.0.
        reduction: ``"batchmean"``: the sum over x.shape[0] (default since timm 1.0.31; ``"sum"`` until 1.0.30).
            ``"sum"``, ``"mean"`` or ``"none"``.
        weight: ``[L]``, >= 0, or None.
        pos_weight: the weight of the positives' terms: a number, a 0-d tensor or ``[L]``, >= 0, or None. With it the
            losses of all elements are stored.

    Raises:
        TypeError: an argument has a wrong type, or CSR targets are given with ``smoothing``.
        ValueError: a value is out of range, or shapes do not fit.

    Example:
        >>> from mlloss_cuda.compat.timm import AsymmetricLossMultiLabel
        >>> AsymmetricLossMultiLabel()(torch.tensor([[2.0, -1.0], [2.0, -1.0]]), torch.tensor([[1, 0], [1, 0]]))
        tensor(0.0157)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
        smoothing: float = 0.0,
        reduction: str = "batchmean",
        weight: Tensor | None = None,
        pos_weight: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.gamma_neg, self.gamma_pos, self.clip, self.eps = gamma_neg, gamma_pos, clip, eps
        self.disable_torch_grad_focal_loss = disable_torch_grad_focal_loss
        self.smoothing = check.check_number("smoothing", smoothing, 0.0, 1.0, open_high=True)
        self.reduction = check.check_choice("reduction", reduction, ("batchmean", *REDUCTIONS))
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", _as_weight(pos_weight))

    def forward(self, x: Tensor, y: Tensor | CSRTargets) -> Tensor:
        """Compute the loss of logits ``x`` ``[B, L]`` and 0/1 targets ``y`` of one shape."""
        x = check.check_logits(x)
        if self.smoothing:
            return self._reduced(self._smoothed(x, y), x)
        self._warn_of_soft_targets(y, INTERPOLATES)
        if self.pos_weight is None:
            return self._fused(x, y, "sum" if self.reduction == "batchmean" else self.reduction, x.shape[0])
        positive = y.to_dense() if isinstance(y, CSRTargets) or y.layout == torch.sparse_csr else y
        values = self._fused(x, y, "none", 1)
        positive = positive.reshape(values.shape)  # CSRTargets have one row for each of the leading dimensions
        return self._reduced(torch.where(positive > 0.5, self.pos_weight.to(values.dtype), 1.0) * values, x)

    def _fused(self, x: Tensor, y: Tensor | CSRTargets, reduction: str, rows: int) -> Tensor:
        return asymmetric_loss(
            x,
            y,
            gamma_neg=self.gamma_neg,
            gamma_pos=self.gamma_pos,
            clip=self._clip,
            detach_focal_weight=self.disable_torch_grad_focal_loss,
            weight=self.weight,
            normalizer=rows if self.reduction == "batchmean" and reduction == "sum" and rows else None,
            reduction=reduction,
        )

    @property
    def _clip(self) -> float:
        return 0.0 if self.clip is None else max(self.clip, 0.0)

    def _smoothed(self, x: Tensor, y: Tensor | CSRTargets) -> Tensor:
        """Return the elements' losses for smoothed targets by the original's definition."""
        x = x.to(_ops.compute_dtype(x))
        y = _smoothed_to_half(y, x, self.smoothing)
        p = x.sigmoid()
        q = (1 - p + self._clip).clamp(max=1)
        positive = y * p.clamp(min=self.eps).log()
        if self.pos_weight is not None:
            positive = positive * self.pos_weight
        cost = positive + (1 - y) * q.clamp(min=self.eps).log()
        base = 1 - p * y - q * (1 - y)
        if self.disable_torch_grad_focal_loss:
            base = base.detach()
        loss = -cost * base ** (self.gamma_pos * y + self.gamma_neg * (1 - y))
        return loss if self.weight is None else loss * self.weight

    def _reduced(self, values: Tensor, x: Tensor) -> Tensor:
        if self.reduction == "none":
            return values
        if self.reduction == "batchmean":
            return values.sum() / x.shape[0]
        return values.mean() if self.reduction == "mean" else values.sum()


class ZlprLoss(nn.Module):
    """timm's ZLPR: the mean over rows; targets above 1/2 are positive.

    Example:
        >>> from mlloss_cuda.compat.timm import ZlprLoss
        >>> ZlprLoss()(torch.tensor([[2.0, -1.0, -3.0]]), torch.tensor([[1, 0, 0]]))
        tensor(0.4759)
    """

    def forward(self, x: Tensor, target: Tensor | CSRTargets) -> Tensor:
        """Return the mean loss of logits and targets ``[..., L]``."""
        return zlpr_loss(x, _above(target, 0.5))


class BinaryCrossEntropy(nn.Module):
    """timm's BCE: class indices become smoothed one-hot targets, and a threshold may make dense targets 0 or 1.

    As in the original, ``smoothing`` applies only to class indices ``[B]``, unless ``smooth_dense``; dense targets are
    assumed to be smoothed already. The one-hot targets are never stored.

    Args:
        smoothing: e in [0, 1): ``1 - e + e / L`` and ``e / L``. Default 0.1.
        target_threshold: targets above it are 1, others 0. Default None. For class indices it must lie
            between the two values of ``smoothing``.
        weight: ``[L]``, >= 0, or None.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.
        sum_classes: sum over labels, mean over the rest, whatever ``reduction`` is. Default False.
        pos_weight: a number, a 0-d tensor or ``[L]``, >= 0, or None.
        smooth_dense: dense targets become ``(1 - e) y + e / 2``, before the threshold. Default False.

    Raises:
        TypeError: an argument has a wrong type, or targets are sparse with ``smooth_dense``.
        ValueError: a value is out of range, or a shape does not fit.

    Example:
        >>> from mlloss_cuda.compat.timm import BinaryCrossEntropy
        >>> BinaryCrossEntropy()(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
        tensor(0.2951)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        smoothing: float = 0.1,
        target_threshold: float | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        sum_classes: bool = False,
        pos_weight: Tensor | float | None = None,
        smooth_dense: bool = False,
    ) -> None:
        super().__init__()
        self.smooth_dense = check.check_bool("smooth_dense", smooth_dense)
        self.smoothing = check.check_number("smoothing", smoothing, 0.0, 1.0, open_high=True)
        self.target_threshold = target_threshold
        self.reduction = "none" if sum_classes else check.check_choice("reduction", reduction, REDUCTIONS)
        self.sum_classes = sum_classes
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", _as_weight(pos_weight))

    def forward(self, x: Tensor, target: Tensor | CSRTargets) -> Tensor:
        """Compute the loss of logits ``x`` ``[B, L]`` and class indices ``[B]``, or targets of the logits' shape."""
        x = check.check_logits(x)
        smoothing = 0.0
        if isinstance(target, Tensor) and target.layout == torch.strided and target.shape != x.shape:
            target, smoothing = self._one_hot(x, target)
        else:
            if self.smooth_dense and self.smoothing:
                target = _smoothed_to_half(target, x, self.smoothing)
            if self.target_threshold is not None:
                target = _above(target, self.target_threshold)
        pos_weight = self.pos_weight
        if pos_weight is not None and pos_weight.dim() == 0:
            pos_weight = pos_weight.expand(x.shape[-1])
        return bce_with_logits_loss(
            x,
            target,
            weight=self.weight,
            pos_weight=pos_weight,
            label_smoothing=smoothing,
            reduction="batchmean" if self.sum_classes else self.reduction,
        )

    def _one_hot(self, x: Tensor, target: Tensor) -> tuple[CSRTargets, float]:
        """Return class indices as sparse targets, and their label smoothing."""
        rows, labels = x.shape[0], x.shape[-1]
        if x.dim() != 2 or target.numel() != rows:
            raise ValueError(
                f"target: expected the logits' shape {tuple(x.shape)}, or class indices for logits [B, L], "
                f"got {tuple(target.shape)}"
            )
        crow = torch.arange(rows + 1, device=target.device)
        sparse = CSRTargets(crow, target.reshape(rows).long(), labels)
        if self.target_threshold is None:
            return sparse, self.smoothing
        low = self.smoothing / labels
        high = 1 - self.smoothing + low
        if not low <= self.target_threshold < high:
            raise ValueError(
                f"target_threshold: expected in [{low:g}, {high:g}) for class indices with "
                f"smoothing={self.smoothing:g}, got {self.target_threshold!r}"
            )
        return sparse, 0.0
