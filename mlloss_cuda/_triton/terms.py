# mypy: ignore-errors
"""The functions that kernels call for a group functor, which may be a compound: a weighted sum of several losses.

A tile is read once and evaluated by each term. The statistics of a compound are those of its terms, concatenated. Its
coefficients are concatenated too, and followed by each term's value. An element-wise term has one sum, the value of
its row, and no coefficients.
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
    "needs_max_shift",
    "rescale",
    "scaled",
    "sums",
]

JOINED_BY = "+"  # a compound's name is its terms' names joined by this
_PARAMETERS = tl.constexpr(8)  # parameters of each term: its coefficient, then those of its functor


class Term(NamedTuple):
    """A loss in a compound, and the position of its statistics and coefficients among those of the compound."""

    functor: ElementWise | Group
    element_wise: Any
    excludes: Any  # the term must exclude labels of weight 0, which the tile keeps for the softmax of another term
    first_maximum: Any
    maxima_count: Any
    first_sum: Any
    sums_count: Any
    first_coefficient: Any
    coefficients: Any


# ---- a term --------------------------------------------------------------------------------------------
# Triton cannot assign or return a tuple with functions, so terms are passed only as arguments.


@triton.jit
def _part(x, first: tl.constexpr, count: tl.constexpr):
    result = ()
    for i in tl.static_range(count):
        result = result + (x[first + i],)
    return result


@triton.jit
def _term_parameters(p, k: tl.constexpr):
    """Return the parameters of a term's functor."""
    return _part(p, k * _PARAMETERS + 1, _PARAMETERS - 1)


@triton.jit
def _maxima_of(term, sums):
    return _part(sums, term.first_maximum, term.maxima_count)


@triton.jit
def _sums_of(term, sums):
    return _part(sums, term.first_sum, term.sums_count)


@triton.jit
def _for_term(term, s, y, w):
    """Return a tile in the form that the term's functor expects."""
    if term.excludes:
        # Selected, not multiplied, because an element excluded from a softmax has a logit of -inf.
        counts = w != 0.0
        return tl.where(counts, s, 0.0), tl.where(counts, y, 0.0), tl.where(counts, w, 0.0)
    else:
        return s, y, w


@triton.jit
def _term_value(term, s, y, w, parameter, p, SOFT: tl.constexpr):
    s, y, w = _for_term(term, s, y, w)
    value, _ = term.functor.evaluate(s, y, parameter, p, SOFT)
    return w * value


@triton.jit
def _term_maxima(term, s, y, w, p):
    s, y, w = _for_term(term, s, y, w)
    return term.functor.maxima(s, y, w, p)


@triton.jit
def _term_sums(term, s, y, w, m, p, SOFT: tl.constexpr):
    s, y, w = _for_term(term, s, y, w)
    return term.functor.sums(s, y, w, m, p, SOFT)


@triton.jit
def _term_first_sums(term, s, y, w, p, SOFT: tl.constexpr):
    s, y, w = _for_term(term, s, y, w)
    return term.functor.first_sums(s, y, w, p, SOFT)


@triton.jit
def _term_gradient(term, s, y, w, c, parameter, p, SOFT: tl.constexpr):
    s, y, w = _for_term(term, s, y, w)
    if term.element_wise:
        _, slope = term.functor.evaluate(s, y, parameter, p, SOFT)
        return slope * (w * c[0])
    else:
        return term.functor.gradient(s, y, w, c, p, SOFT)


# ---- a functor, or all terms ---------------------------------------------------------------------------
# These are the members of Group. `parameter` has a number for each label, which element-wise terms may read.


@triton.jit
def maxima(functor, s, y, w, p):
    if functor.terms_count == 0:
        return functor.maxima(s, y, w, p)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].maxima_count > 0:
                result = result + _term_maxima(functor.terms[k], s, y, w, _term_parameters(p, k))
        return result


@triton.jit
def sums(functor, s, y, w, m, parameter, p, SOFT: tl.constexpr):
    if functor.terms_count == 0:
        return functor.sums(s, y, w, m, p, SOFT)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].element_wise:
                result = result + (_term_value(functor.terms[k], s, y, w, parameter, _term_parameters(p, k), SOFT),)
            else:
                own = _maxima_of(functor.terms[k], m)
                result = result + _term_sums(functor.terms[k], s, y, w, own, _term_parameters(p, k), SOFT)
        return result


@triton.jit
def first_sums(functor, s, y, w, parameter, p, SOFT: tl.constexpr):
    if functor.terms_count == 0:
        return functor.first_sums(s, y, w, p, SOFT)
    else:
        result = ()
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].element_wise:
                result = result + (_term_value(functor.terms[k], s, y, w, parameter, _term_parameters(p, k), SOFT),)
            else:
                result = result + _term_first_sums(functor.terms[k], s, y, w, _term_parameters(p, k), SOFT)
        return result


@triton.jit
def _term_first_maxima(term, sums, m):
    if term.functor.first_maxima is not None:
        return term.functor.first_maxima(sums)
    else:
        return m


@triton.jit
def first_maxima(functor, sums, m):
    """Return the maxima that belong to the first sums; ``m`` are zeros."""
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
def needs_max_shift(functor, sums):
    """Return whether any term needs its maxima."""
    if functor.terms_count == 0:
        return functor.needs_max_shift(sums)
    else:
        result = tl.full(sums[0].shape, False, tl.int1)
        for k in tl.static_range(functor.terms_count):
            if functor.terms[k].maxima_count > 0:
                result = result | functor.terms[k].functor.needs_max_shift(_sums_of(functor.terms[k], sums))
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
                value, c = functor.terms[k].functor.finalize(
                    _maxima_of(functor.terms[k], m), own, _term_parameters(p, k)
                )
                coefficients = coefficients + c
            total += p[k * _PARAMETERS] * value
            each = each + (value,)
        return total, coefficients + each


@triton.jit
def scaled(functor, c, factor, p):
    """Scale the coefficients; a compound has a tuple for each term, for element-wise terms only the factor."""
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
            result += _term_gradient(functor.terms[k], s, y, w, c[k], parameter, _term_parameters(p, k), SOFT)
        return result


# ---- construction --------------------------------------------------------------------------------------


def _counts(functor: ElementWise | Group) -> tuple[int, int, int]:
    """Return the numbers of maxima, sums and coefficients."""
    if isinstance(functor, ElementWise):
        return 0, 1, 0
    return functor.maxima_count.value, functor.sums_count.value, functor.coefficients.value


def compound_of(functors: Sequence[ElementWise | Group]) -> Group:
    """Return the compound of these functors, in this order."""
    softmax_over_labels = any(functor.softmax_over_labels for functor in functors)
    begin = [0, 0, 0]
    terms = []
    for functor in functors:
        counts = _counts(functor)
        places = (n for pair in zip(begin, counts, strict=True) for n in pair)
        facts = (isinstance(functor, ElementWise), softmax_over_labels and not functor.softmax_over_labels, *places)
        terms.append(Term(functor, *map(tl.constexpr, facts)))
        begin = [place + count for place, count in zip(begin, counts, strict=True)]
    all_maxima, all_sums, all_coefficients = begin
    return Group(
        *(None,) * 8,
        maxima_count=tl.constexpr(all_maxima),
        sums_count=tl.constexpr(all_sums),
        coefficients=tl.constexpr(all_coefficients + len(terms)),
        # A term with a higher initial maximum returns it itself for elements without a candidate.
        initial=tl.constexpr(float("-inf")),
        softmax_over_labels=softmax_over_labels,
        terms_count=tl.constexpr(len(terms)),
        terms=tuple(terms),
    )
