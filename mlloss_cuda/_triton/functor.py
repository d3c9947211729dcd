"""What a loss is to the Triton engine: the twin of csrc/losses/functor.h, function by function.

``s``, ``y`` and ``w`` are tiles: the logits after scale, bias and threshold, the targets in [0, 1], the
weights. An excluded element comes as s = y = w = 0, and where labels compete as s = -inf, w = 0; elsewhere a
weight of 0 excludes too. ``p`` is the tuple of the loss's parameters. ``SOFT``: targets may be probabilities;
without it they are 0 or 1. A functor lies in the module that has the loss's name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

__all__ = ["ElementWise", "Group"]


class ElementWise(NamedTuple):
    """A loss without statistics."""

    evaluate: Any  # (s, y, parameter, p, SOFT) -> value, d value / d s; parameter: the label's own number, or 1
    competing: Any = False
    raw_targets: Any = False  # y is another logit, times logit_scale, and no target: any number; SOFT always


class Group(NamedTuple):
    """A loss over rows, and perhaps over labels or everything. Maxima, sums and coefficients are tuples."""

    maxima: Any  # (s, y, w, p) -> each element's part; `initial` where it has none. None: no maxima
    sums: Any  # (s, y, w, m, p, SOFT) -> what elements add, the maxima fixed at m
    first_sums: Any  # (s, y, w, p, SOFT) -> the same with m at 0
    unsafe: Any  # (sums) -> where the first sums overflowed or vanished: take them again with maxima
    rescale: Any  # (sums, old, new) -> the sums, when the maxima move
    finalize: Any  # (m, sums, p) -> value, coefficients; with late sums (m, sums, late, p)
    scaled: Any  # (c, factor) -> the coefficients of the gradient times factor
    gradient: Any  # (s, y, w, c, p, SOFT) -> d value / d s
    maxima_count: Any  # constexpr
    sums_count: Any  # constexpr
    coefficients: Any  # constexpr
    initial: Any  # constexpr: where maxima start
    competing: Any = False  # labels compete for one softmax, and a label of weight 0 with them
    raw_targets: Any = False
    # Sums of rows that can be taken only once the others are complete, on one more visit.
    settle: Any = None  # (m, sums) -> what they need of these
    late: Any = None  # (s, y, w, settled, p, SOFT) -> what elements add to them. None: no such sums
    late_count: Any = 0  # constexpr
    first_maxima: Any = None  # (sums) -> m of first sums that are safe; None: 0
    terms_count: Any = tl.constexpr(0)  # of a compound, whose functions are its terms' (terms.py)
    terms: Any = ()
