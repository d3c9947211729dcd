"""The reference backend: every loss from its definition, in plain PyTorch, differentiated by autograd.

Tests compare the kernels with it (in float64), and it serves calls that no engine serves. It does not support parts
of the labels: autograd keeps all logits and more, so parts would save nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _ops
from ._call import Options, TensorArguments
from ._limits import scaled
from ._registry import LossSpec
from .targets import CSRTargets

__all__ = ["equal_to", "loss_input", "reference_loss"]


def loss_input(
    logits: Tensor,
    scale: Tensor | float,
    offset: float,
    label_offset: Tensor | None,
    row_offset: Tensor | None,
) -> Tensor:
    """Return ``scale * logits`` and the offsets in the compute dtype; ``row_offset`` is 0-d or has an entry a row."""
    s = scaled(logits.to(_ops.compute_dtype(logits)), scale) + offset
    if label_offset is not None:
        s = s + label_offset
    if row_offset is not None:
        s = s + (row_offset if row_offset.dim() == 0 else row_offset.reshape(*logits.shape[:-1], 1))
    return s


def _dense(targets: Tensor | CSRTargets, ignore_index: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return dense targets as numbers, and a mask of the excluded ones (None if there are none)."""
    if isinstance(targets, CSRTargets):
        y = targets.to_dense()
        excluded = y < 0 if targets.values is not None else None
    else:
        y = targets
        excluded = equal_to(y, ignore_index) if ignore_index is not None else None
    if not y.is_floating_point():
        # Every integer >= 1 is a positive. Negative targets stay negative; the caller turns them into NaN.
        return y.to(dtype).clamp(max=1), excluded
    return y.to(dtype), excluded


def equal_to(y: Tensor, index: int) -> Tensor:
    """Return a mask of targets equal to the checked ``ignore_index`` as numbers: 255 in uint8 is not -1."""
    if index == _ops.IGNORE_NAN:
        return y.isnan()
    return y.double() == float(index) if y.is_floating_point() else y.long() == index


def _nan_where(condition: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a factor that is NaN where ``condition`` holds: unlike a selection, it makes the gradient NaN too."""
    return torch.ones_like(condition, dtype=dtype).masked_fill(condition, torch.nan)


def reference_loss(
    spec: LossSpec, logits: Tensor, targets: Tensor | CSRTargets, tensors: TensorArguments, options: Options
) -> Tensor:
    """Return the loss of 2-D logits; ``tensors`` and ``options`` are those of the ops."""
    grouping, weight, sample_weight = _ops.GROUPINGS[options.grouping], tensors.weight, tensors.sample_weight
    scale = options.scale if tensors.logit_scale is None else tensors.logit_scale
    ignore_index, smoothing, parameters = options.ignore_index, options.label_smoothing, options.parameters
    dtype = _ops.compute_dtype(logits)
    rows, labels = logits.shape
    s = loss_input(logits, scale, options.offset, tensors.label_offset, tensors.row_offset)
    if spec.second_logits:
        assert isinstance(targets, Tensor)
        y, excluded = scaled(targets.to(dtype), scale), None
    else:
        y, excluded = _dense(targets, ignore_index, dtype)
        spoiled = ~(y >= 0) if excluded is None else ~(y >= 0) & ~excluded
        y = torch.where(spoiled, 0.0, y)
    soft = y.is_floating_point() and (smoothing > 0 or _floating(targets))
    w = weight
    if sample_weight is not None and grouping in ("macro", "micro"):
        w = sample_weight[:, None] if w is None else w * sample_weight[:, None]
    if excluded is not None:
        w = torch.where(excluded, 0.0, torch.ones_like(y) if w is None else w)
    if smoothing > 0:
        y = y * (1 - smoothing) + smoothing / labels
    out = excluded if spec.softmax_over_labels or w is None else w == 0
    if sample_weight is not None:
        weightless = (sample_weight == 0)[:, None].expand_as(s)
        out = weightless if out is None else out | weightless
    if not spec.second_logits:
        # A negative or NaN target makes its logit NaN, if it is not excluded.
        s = s * _nan_where(spoiled if out is None else spoiled & ~out, dtype)
    if out is not None:
        s, y = torch.where(out, -torch.inf if spec.softmax_over_labels else 0.0, s), torch.where(out, 0.0, y)

    if spec.element_wise:
        own = {"label_parameter": tensors.label_parameter} if spec.label_parameter else {}
        values = spec.reference(s, y, soft, parameters, **own)
        if w is not None:
            values = torch.where(w == 0, 0.0, values * w)
        if sample_weight is not None:
            values = torch.where(sample_weight[:, None] == 0, 0.0, values * sample_weight[:, None])
    else:
        dim = {"samples": (1,), "macro": (0,), "micro": (0, 1)}[grouping]
        # A NaN makes its whole group NaN here, so that the definitions need not handle it.
        lost = _nan_where(s.isnan().any(dim, keepdim=True), dtype)
        values = spec.reference(s * lost, y, soft, w, parameters, dim)
        values = values * lost.reshape(values.shape)
        if sample_weight is not None and grouping == "samples":
            values = torch.where(sample_weight == 0, 0.0, values * sample_weight)
    return _reduced(values, _ops.REDUCTIONS[options.reduction], rows, tensors.normalizer)


def _floating(targets: Tensor | CSRTargets) -> bool:
    return targets.values is not None if isinstance(targets, CSRTargets) else targets.is_floating_point()


def _reduced(values: Tensor, reduction: str, rows: int, normalizer: Tensor | None) -> Tensor:
    if reduction == "none":
        return values
    if reduction == "mean":
        return values.mean()
    total = values.sum()
    if reduction == "batchmean":
        return total / rows if rows else total * torch.nan
    return total if normalizer is None else total / normalizer
