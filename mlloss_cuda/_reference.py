"""The reference backend: every loss from its definition, in plain PyTorch, differentiated by autograd.

It is what the kernels are tested against (in float64), and what serves where no engine does. Parts of the labels
are of the fused engines only: autograd keeps all logits and more, so that there is nothing to gain from a part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _ops
from ._call import Options, TensorArguments
from ._limits import scaled
from ._registry import LossSpec
from .targets import CSRTargets

__all__ = ["equal_to", "reference_loss"]


def _dense(targets: Tensor | CSRTargets, ignore_index: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Targets as numbers, and where they are excluded (None: nowhere)."""
    if isinstance(targets, CSRTargets):
        y = targets.to_dense()
        excluded = y < 0 if targets.values is not None else None
    else:
        y = targets
        excluded = equal_to(y, ignore_index) if ignore_index is not None else None
    if not y.is_floating_point():
        # A negative stays, to be found out below; every integer from 1 on is a positive.
        return y.to(dtype).clamp(max=1), excluded
    return y.to(dtype), excluded


def equal_to(y: Tensor, index: int) -> Tensor:
    """A mask of targets that equal the checked ``ignore_index`` as numbers: 255 is not -1, though it is in uint8."""
    if index == _ops.IGNORE_NAN:
        return y.isnan()
    return y.double() == float(index) if y.is_floating_point() else y.long() == index


def _nan_where(condition: Tensor, dtype: torch.dtype) -> Tensor:
    """A factor that makes NaN of a value and, as no selection does, of its gradient."""
    return torch.ones_like(condition, dtype=dtype).masked_fill(condition, torch.nan)


def reference_loss(
    spec: LossSpec, logits: Tensor, targets: Tensor | CSRTargets, tensors: TensorArguments, options: Options
) -> Tensor:
    """The loss of 2-D logits; ``tensors`` and ``options`` as the ops take them."""
    grouping, weight, sample_weight = _ops.GROUPINGS[options.grouping], tensors.weight, tensors.sample_weight
    scale = options.scale if tensors.logit_scale is None else tensors.logit_scale
    ignore_index, smoothing, parameters = options.ignore_index, options.label_smoothing, options.parameters
    dtype = _ops.compute_dtype(logits)
    rows, labels = logits.shape
    s = scaled(logits.to(dtype), scale) + options.offset
    if tensors.label_offset is not None:
        s = s + tensors.label_offset
    if tensors.row_offset is not None:
        s = s + tensors.row_offset.reshape(-1, 1)
    if spec.second_logits:
        assert isinstance(targets, Tensor)
        y, excluded = scaled(targets.to(dtype), scale), None
    else:
        y, excluded = _dense(targets, ignore_index, dtype)
        # A negative target, or one that is no number, makes its logit one that is none.
        spoiled = ~(y >= 0) if excluded is None else ~(y >= 0) & ~excluded
        s, y = s * _nan_where(spoiled, dtype), torch.where(spoiled, 0.0, y)
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
        # A NaN makes its whole group NaN, so that definitions need not look out for it.
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
