# mypy: ignore-errors
"""What kernels ask of a group's functor, and of a compound: the sum of its terms' values, each times its coefficient.

A tile is read once and shown to each term. Statistics are the terms' one after another, and so are coefficients,
followed by each term's value; an element-wise term has one sum, its row's value, and no coefficients.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .functor import ElementWise, Group

__all__ = [
    "JOINED_BY",
    "compound_of",
    "finalize",
    "first_maxima",
    "first_sums",
    "gradient",
    "maxima",
    "rescale",
    "scaled",
    "sums",
    "unsafe",
]

JOINED_BY = "+"  # a compound's name: its terms'
_PARAMETERS = tl.constexpr(8)  # of each term: its coefficient, then its functor's own


class Term(NamedTuple):
    """A loss in a compound, and where its statistics and coefficients lie among those of all."""

    functor: ElementWise | Group
    element_wise: Any
    excludes: Any  # labels of weight 0, which come because another term has labels compete
    first_maximum: Any
    maxima_count: Any
    first_sum: Any
    sums_count: Any
    first_coefficient: Any
    coefficients: Any


# ---- a term --------------------------------------------------------------------------------------------
# Triton has no functions in tuples that are assigned or returned: terms are arguments only.


@triton.jit
def _part(x, first: tl.constexpr, count: tl.constexpr):
    result = ()
    for i in tl.static_range(count):
        result = result + (x[first + i],)
    return result


@triton.jit
def _own(p, k: tl.constexpr):
    """The parameters of a term's functor."""
    return _part(p, k * _PARAMETERS + 1, _PARAMETERS - 1)


@triton.jit
def _maxima_of(term, sums):
    return _part(sums, term.first_maximum, term.maxima_count)


@triton.jit
def _sums_of(term, sums):
    return _part(sums, term.first_sum, term.sums_count)


@triton.jit
def _shown(term, s, y, w):
    """A tile as the term's functor has it."""
    if term.excludes:
        # Selected: what is excluded from a softmax is -inf.
        counts = w != 0.0
        return tl.where(counts, s, 0.0), tl.where(counts, y, 0.0), tl.where(counts, w, 0.0)
    else:
        return s, y, w


@triton.jit
def _term_value(term, s, y, w, parameter, p, SOFT: tl.constexpr):
    s, y, w = _shown(term, s, y, w)
    value, _ = term.functor.evaluate(s, y, parameter, p, SOFT)
    return w * value


@triton.jit
def _term_maxima(term, s, y, w, p):
    s, y, w = _shown(term, s, y, w)
    return term.functor.maxima(s, y, w, p)


@triton.jit
def _term_sums(term, s, y, w, m, p, SOFT: tl.constexpr):
    s, y, w = _shown(term, s, y, w)
    return term.functor.sums(s, y, w, m, p, SOFT)


@triton.jit
def _term_first_sums(term, s, y, w, p, SOFT: tl.constexpr):
    s, y, w = _shown(term, s, y, w)
    return term.functor.first_sums(s, y, w, p, SOFT)


@triton.jit
def _term_gradient(term, s, y, w, c, parameter, p, SOFT: tl.constexpr):
    s, y, w = _shown(term, s, y, w)
    if term.element_wise:
        _, slope = term.functor.evaluate(s, y, parameter, p, SOFT)
        return slope * (w * c[0])
    else:
        return term.functor.gradient(s, y, w, c, p, SOFT)


# ---- a functor, or all terms ---------------------------------------------------------------------------
# As in Group. parameter: the labels' own numbers, which element-wise terms may take.


@triton.jit
def maxima(functor, s, y, w, p):
    if functor.terms_count == 0:
        return functor.maxima(s, y, w, p)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].maxima_count > 0:
                result = result + _term_maxima(functor.terms[k], s, y, w, _own(p, k))
        return result


@triton.jit
def sums(functor, s, y, w, m, parameter, p, SOFT: tl.constexpr):
    if functor.terms_count == 0:
        return functor.sums(s, y, w, m, p, SOFT)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].element_wise:
                result = result + (_term_value(functor.terms[k], s, y, w, parameter, _own(p, k), SOFT),)
            else:
                own = _maxima_of(functor.terms[k], m)
                result = result + _term_sums(functor.terms[k], s, y, w, own, _own(p, k), SOFT)
        return result


@triton.jit
def first_sums(functor, s, y, w, parameter, p, SOFT: tl.constexpr):
    if functor.terms_count == 0:
        return functor.first_sums(s, y, w, p, SOFT)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].element_wise:
                result = result + (_term_value(functor.terms[k], s, y, w, parameter, _own(p, k), SOFT),)
            else:
                result = result + _term_first_sums(functor.terms[k], s, y, w, _own(p, k), SOFT)
        return result


@triton.jit
def _term_first_maxima(term, sums, m):
    if term.functor.first_maxima is not None:
        return term.functor.first_maxima(sums)
    else:
        return m


@triton.jit
def first_maxima(functor, sums, m):
    """The maxima of first sums, whose ``m`` are 0."""
    if functor.terms_count == 0:
        if functor.first_maxima is not None:
            return functor.first_maxima(sums)
        else:
            return m
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].maxima_count > 0:
                own = _sums_of(functor.terms[k], sums)
                result = result + _term_first_maxima(functor.terms[k], own, _maxima_of(functor.terms[k], m))
        return result


@triton.jit
def unsafe(functor, sums):
    """For any term."""
    if functor.terms_count == 0:
        return functor.unsafe(sums)
    else:
        result = tl.full(sums[0].shape, False, tl.int1)
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].maxima_count > 0:
                result = result | functor.terms[k].functor.unsafe(_sums_of(functor.terms[k], sums))
        return result


@triton.jit
def rescale(functor, sums, old, new):
    if functor.terms_count == 0:
        return functor.rescale(sums, old, new)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            own = _sums_of(functor.terms[k], sums)
            if functor.terms[k].maxima_count > 0:
                before, after = _maxima_of(functor.terms[k], old), _maxima_of(functor.terms[k], new)
                own = functor.terms[k].functor.rescale(own, before, after)
            result = result + own
        return result


@triton.jit
def finalize(functor, m, sums, p):
    if functor.terms_count == 0:
        return functor.finalize(m, sums, p)
    else:
        total = tl.zeros_like(sums[0])
        coefficients, each = (), ()
        for k in tl.static_range(functor.terms_count):
            own = _sums_of(functor.terms[k], sums)
            value = own[0]
            if not functor.terms[k].element_wise:
                value, c = functor.terms[k].functor.finalize(_maxima_of(functor.terms[k], m), own, _own(p, k))
                coefficients = coefficients + c
            total += p[k * _PARAMETERS] * value
            each = each + (value,)
        return total, coefficients + each


@triton.jit
def scaled(functor, c, factor, p):
    """Of a compound, a tuple a term; an element-wise one's is the factor."""
    if functor.terms_count == 0:
        return functor.scaled(c, factor)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            own = factor * p[k * _PARAMETERS]
            if functor.terms[k].element_wise:
                result = result + ((own,),)
            else:
                some = _part(c, functor.terms[k].first_coefficient, functor.terms[k].coefficients)
                result = result + (functor.terms[k].functor.scaled(some, own),)
        return result


@triton.jit
def gradient(functor, s, y, w, c, parameter, p, SOFT: tl.constexpr):
    if functor.terms_count == 0:
        return functor.gradient(s, y, w, c, p, SOFT)
    else:
        result = tl.zeros_like(s)
        for k in tl.static_range(functor.terms_count):
            result += _term_gradient(functor.terms[k], s, y, w, c[k], parameter, _own(p, k), SOFT)
        return result


# ---- their making --------------------------------------------------------------------------------------


def _counts(functor: ElementWise | Group) -> tuple[int, int, int]:
    """Of maxima, sums and coefficients."""
    if isinstance(functor, ElementWise):
        return 0, 1, 0
    return functor.maxima_count.value, functor.sums_count.value, functor.coefficients.value


def compound_of(functors: Sequence[ElementWise | Group]) -> Group:
    """The compound of these, in this order."""
    competing = any(functor.competing for functor in functors)
    begin = [0, 0, 0]
    terms = []
    for functor in functors:
        counts = _counts(functor)
        places = (n for pair in zip(begin, counts, strict=True) for n in pair)
        facts = (isinstance(functor, ElementWise), competing and not functor.competing, *places)
        terms.append(Term(functor, *map(tl.constexpr, facts)))
        begin = [place + count for place, count in zip(begin, counts, strict=True)]
    all_maxima, all_sums, all_coefficients = begin
    return Group(
        *(None,) * 8,
        maxima_count=tl.constexpr(all_maxima),
        sums_count=tl.constexpr(all_sums),
        coefficients=tl.constexpr(all_coefficients + len(terms)),
        # Where a functor's own is higher, each element without a part in a maximum hands that over.
        initial=tl.constexpr(float("-inf")),
        competing=competing,
        terms_count=tl.constexpr(len(terms)),
        terms=tuple(terms),
    )
