"""The arguments of the kernels: tensors, strides and numbers, in tuples that Triton accepts.

An absent argument is None, which is a compile-time constant. A field must not be named ``values``, which is an
attribute of Triton's tuples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Call", "GradOutput", "Numbers", "Results", "Tile"]


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
