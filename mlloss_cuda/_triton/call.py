"""The kernels' arguments, made from those of the ops: tensors, strides and numbers, in tuples that Triton accepts.

An absent argument is None, which is a compile-time constant. A field must not be named ``values``, which is an
attribute of Triton's tuples.
"""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _ops
from .._call import SHARED_NAMES

__all__ = [
    "Arguments",
    "Call",
    "GradOutput",
    "Numbers",
    "Results",
    "Tile",
    "call_of",
    "call_without_logits",
    "groups_of",
    "ignores_nan",
]


class Numbers(NamedTuple):
    """Numbers, each a tuple of one float32, or of two whose sum is a float64."""

    scale: Any
    offset: Any
    smooth_slope: Any  # smoothed targets: y * smooth_slope + smooth_floor
    smooth_floor: Any
    factor: Any  # the reduction's factor of value and gradient
    parameters: Any  # a tuple of such tuples


class Call(NamedTuple):
    """The loss of ``[rows, labels]`` logits; the twin of csrc/core/params.h's Call. Strides are in elements."""

    logits: Any
    logits_row: Any
    logits_label: Any
    labels: Any
    # The number of the logits' first label and the number of all labels, for a part of the labels. None: all labels
    first_label: Any
    all_labels: Any
    # Dense, or None
    targets: Any
    targets_row: Any
    targets_label: Any
    # CSR, or None
    crow: Any
    columns: Any
    probabilities: Any  # or None: ones
    ignore_index: Any
    weight: Any
    sample_weight: Any
    scale: Any  # 0-d, replaces numbers.scale; or None
    label_offset: Any
    row_offset: Any
    row_offset_stride: Any
    normalizer: Any
    label_parameter: Any  # a number for each label, for functors that read one; None: ones
    numbers: Numbers


class Tile(NamedTuple):
    """The shape and the properties of tiles, as one compile-time argument.

    Triton 3.6 does not accept a field inside a list such as a shape: assign it first, ``R: tl.constexpr = tile.rows``.
    """

    rows: Any
    columns: Any
    dtype: Any  # the compute dtype
    wide: Any  # the labels' logits are contiguous, so that 16 aligned elements take one or two accesses
    wide_targets: Any  # dense targets are contiguous too, with the logits' alignment
    wide_gradient: Any  # the same for the gradient
    masked: Any  # every tile may have elements outside its rows
    soft: Any  # targets may be probabilities
    crosses_rows: Any  # groups span rows, so the weight of a row belongs to its elements
    softmax_over_labels: Any  # as in the functor
    second_logits: Any  # as in the functor
    ignores_nan: Any = False  # a floating target that is NaN is unknown


class Results(NamedTuple):
    """The outputs of a pass; None: not needed."""

    losses: Any = None
    coefficients: Any = None
    gradient: Any = None
    gradient_row: Any = None  # the row stride; a gradient in the logits' memory has theirs
    other_gradient: Any = None  # of second logits, with the same row stride
    row_sums: Any = None
    scale_sums: Any = None


class GradOutput(NamedTuple):
    """The input gradient of a backward pass. A tensor of None is 1, a label stride of None is one value for all."""

    tensor: Any = None
    row: Any = None
    label: Any = None


class Arguments(SimpleNamespace):
    """The arguments that every op takes after the logits, by the names that ``_call`` lists."""

    def __init__(self, *arguments: Any) -> None:
        given = zip(SHARED_NAMES, arguments, strict=False)  # torch leaves out arguments at the end that are None
        super().__init__(**{**dict.fromkeys(SHARED_NAMES), **dict(given)})

    @property
    def group(self) -> str:
        return _ops.GROUPINGS[self.grouping]

    @property
    def reduce(self) -> str:
        return _ops.REDUCTIONS[self.reduction]


def _number(x: float, double: bool) -> tuple[float, ...]:
    if not double:
        return (x,)
    high = ctypes.c_float(x).value
    return high, x - high if math.isfinite(high) else 0.0


def groups_of(logits: Tensor, group: str) -> int:
    """Return the number of groups, or of elements if ``group`` is "element"."""
    rows, labels = logits.shape
    return _count(group, rows, labels)


def _count(group: str, rows: int, labels: int) -> int:
    return {"element": rows * labels, "samples": rows, "macro": labels, "micro": 1}[group]


def _factor(rows: int, a: Arguments) -> float:
    """Return the reduction's factor over all labels, not only those of this part; inf for a mean without elements."""
    count = {"mean": _count(a.group, rows, a.all_labels), "batchmean": rows}.get(a.reduce, 1)
    return 1 / count if count else math.inf


def _numbers(rows: int, a: Arguments, double: bool) -> Numbers:
    smooth, labels = a.label_smoothing, max(1, a.all_labels)
    return Numbers(
        _number(a.scale, double),
        _number(a.offset, double),
        _number(1 - smooth, double),
        _number(smooth / labels, double),
        _number(_factor(rows, a), double),
        tuple(_number(x, double) for x in a.parameters),
    )


def _ignored(a: Arguments) -> int | None:
    """Return the ignore_index, or None if no target can equal it."""
    index, targets = a.ignore_index, a.targets
    if index is None or targets is None or not targets.is_floating_point():
        return index
    exact = targets.dtype == torch.float64 or ctypes.c_float(index).value == index
    return index if exact and not ignores_nan(a) else None


def ignores_nan(a: Arguments) -> bool:
    """Return whether a NaN among floating targets is an unknown label."""
    return a.ignore_index == _ops.IGNORE_NAN and a.targets is not None and a.targets.is_floating_point()


def call_of(logits: Tensor, a: Arguments) -> Call:
    """Return the kernels' arguments for a pass over the logits."""
    whole = logits.shape[1] == a.all_labels
    return Call(
        logits=logits,
        logits_row=logits.stride(0),
        logits_label=logits.stride(1),
        labels=logits.shape[1],
        first_label=None if whole else a.first_label,
        all_labels=None if whole else a.all_labels,
        targets=a.targets,
        targets_row=None if a.targets is None else a.targets.stride(0),
        targets_label=None if a.targets is None else a.targets.stride(1),
        crow=a.crow_indices,
        columns=a.col_indices,
        probabilities=a.values,
        ignore_index=_ignored(a),
        weight=a.weight,
        sample_weight=a.sample_weight,
        scale=a.logit_scale,
        label_offset=a.label_offset,
        row_offset=a.row_offset,
        row_offset_stride=None if a.row_offset is None else (1 if a.row_offset.dim() else 0),
        normalizer=a.normalizer,
        label_parameter=a.label_parameter,
        numbers=_numbers(logits.shape[0], a, logits.dtype == torch.float64),
    )


def call_without_logits(rows: int, a: Arguments, sample_weight: Tensor | None, normalizer: Tensor | None) -> Call:
    """Return the kernels' arguments for statistics that are complete."""
    nothing: dict[str, Any] = dict.fromkeys(Call._fields)
    given = {"sample_weight": sample_weight, "normalizer": normalizer, "numbers": _numbers(rows, a, True)}
    return Call(**(nothing | given))
