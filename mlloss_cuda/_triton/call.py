"""What crosses from torch to the kernels: tensors, strides and numbers, in tuples that Triton takes as arguments.

None stands for what is not there, and is known when a kernel is compiled. A field must not be named
``values``: Triton's tuples have that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Call", "GradOutput", "Numbers", "Results", "Tile"]


class Numbers(NamedTuple):
    """Each a tuple of one float32, or of two whose sum is a float64."""

    scale: Any
    offset: Any
    smooth_slope: Any  # smoothed targets: y * smooth_slope + smooth_floor
    smooth_floor: Any
    factor: Any  # the reduction's part of value and gradient
    parameters: Any  # a tuple of such


class Call(NamedTuple):
    """The loss of ``[rows, labels]`` logits; the twin of csrc/core/params.h's Call. Strides are in elements."""

    logits: Any
    logits_row: Any
    logits_label: Any
    labels: Any
    # Of a part of the labels: CSR's column of the logits' first, and how many labels there are. None: a whole call
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
    scale: Any  # 0-d, in place of numbers.scale
    label_offset: Any
    row_offset: Any
    row_offset_stride: Any
    normalizer: Any
    label_parameter: Any  # of each label, for functors that take one; None: ones
    numbers: Numbers


class Tile(NamedTuple):
    """How a kernel goes over the logits: one compile-time argument.

    In a list, Triton 3.6 wants its fields by names of their own.
    """

    rows: Any
    columns: Any
    dtype: Any  # in which is computed
    wide: Any  # logits: labels lie next to each other, so that 16 elements on a boundary are one access or two
    wide_targets: Any  # and dense targets beside them on the same boundaries
    wide_gradient: Any
    masked: Any  # every tile may have elements outside its rows
    soft: Any  # targets may be probabilities
    crosses_rows: Any  # a row's weight belongs to its elements
    competing: Any  # as functors have it
    raw_targets: Any  # as functors have it
    ignores_nan: Any = False  # a floating target that is NaN is unknown


class Results(NamedTuple):
    """What a pass fills; None: not wanted."""

    losses: Any = None
    coefficients: Any = None
    gradient: Any = None
    gradient_row: Any = None  # its stride from row to row: of a gradient in the logits' place, theirs
    row_sums: Any = None
    scale_sums: Any = None


class GradOutput(NamedTuple):
    """What a backward pass starts from. None: 1, or in place of a label's stride: the same for all labels."""

    tensor: Any = None
    row: Any = None
    label: Any = None
