"""The contract between a loss and the Triton engine, with the members of csrc/losses/functor.h.

A functor is a tuple of ``@triton.jit`` functions in the module with the loss's name. ``s``, ``y`` and ``w`` are tiles:
the logits after scale, bias and threshold, the targets, and the weights. Targets are 0 or 1, or probabilities if
``SOFT``. ``p`` is the tuple of the loss's parameters. An excluded element comes as s = y = w = 0, or as s = -inf, w = 0
if ``softmax_over_labels``. A weight of 0 also excludes an element, unless ``softmax_over_labels``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

__all__ = ["ElementWise", "Group"]


class ElementWise(NamedTuple):
    """A loss of each element by itself."""

    evaluate: Any  # (s, y, parameter, p, SOFT) -> value, d value / d s; parameter: the label's own number, or 1
    softmax_over_labels: Any = False
    second_logits: Any = False  # y is a second logit times logit_scale and may be any number; SOFT is always true
    evaluate_both: Any = None  # (s, y) -> value, d value / d s, d value / d y; for second_logits


class Group(NamedTuple):
    """A loss of a group of elements: a row, for some losses also a label or the whole batch.

    Maxima, sums and coefficients are tuples of tensors. The engine first takes the sums with all maxima at 0.
    """

    maxima: Any  # (s, y, w, p) -> each element's candidates for the maxima, or `initial`. None: no maxima
    sums: Any  # (s, y, w, m, p, SOFT) -> each element's share of the sums, if the maxima are m
    first_sums: Any  # (s, y, w, p, SOFT) -> the same with all m at 0
    # (sums) -> whether the first sums overflowed or vanished, so that they are taken again with maxima and sums
    needs_max_shift: Any
    rescale: Any  # (sums, old, new) -> the sums shifted from the maxima `old` to `new`
    finalize: Any  # (m, sums, p) -> value, coefficients; (m, sums, second_sums, p) with second-pass sums
    scaled: Any  # (c, factor) -> the coefficients of the gradient times factor
    gradient: Any  # (s, y, w, c, p, SOFT) -> d value / d s
    maxima_count: Any  # constexpr
    sums_count: Any  # constexpr
    coefficients: Any  # constexpr: their number
    initial: Any  # constexpr: the number that each maximum starts from
    # The labels share one softmax, in which a label of weight 0 still takes part.
    softmax_over_labels: Any = False
    second_logits: Any = False
    # Sums that need the complete statistics, taken in a second pass over the row.
    second_pass_input: Any = None  # (m, sums) -> what the second pass needs of the statistics
    second_pass_sums: Any = None  # (s, y, w, input, p, SOFT) -> each element's share. None: no second pass
    second_pass_count: Any = 0  # constexpr
    # (sums) -> the maxima that belong to the first sums. None: 0
    first_maxima: Any = None
    terms_count: Any = tl.constexpr(0)  # of a compound, which has terms in place of functions (terms.py)
    terms: Any = ()
