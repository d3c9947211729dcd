"""The declarative list of losses, which dispatch, tests, bench and documentation read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, cast

import torch

from . import _ops

__all__ = ["LossSpec", "Term", "all_losses", "checked_once", "compound", "register"]


@dataclass(frozen=True)
class LossSpec:
    """One loss as the engines know it.

    ``reference`` is the definition in plain PyTorch. ``s`` is the logits after scale, bias and threshold; ``y`` is
    in [0, 1], and ``soft`` says whether it may be other than 0 and 1. If ``second_logits`` is set, ``y`` is another
    logit instead, and may be any number. An element-wise ``reference(s, y, soft, parameters)`` returns a value for
    each element, and has a keyword ``label_parameter`` ([L] or None) if the functor has one. The reference of a
    group loss, ``reference(s, y, soft, w, parameters, dim)``, reduces over ``dim``; ``w`` has a weight for each
    element, or is None.
    """

    name: str  # as in csrc/losses/registry.h
    groupings: tuple[str, ...]  # some of _ops.GROUPINGS
    coefficients: int  # the functor's kCoefficients
    reference: Callable[..., torch.Tensor]
    statistics: int = 0  # the functor's kMaxima + kSums
    label_parameter: bool = False  # the functor's kLabelParameter
    softmax_over_labels: bool = False  # the functor's kSoftmaxOverLabels: excluded labels have s = -inf
    second_pass_sums: int = 0  # the functor's kSecondPassSums: one more visit, and no shared pass in a compound
    second_logits: bool = False  # the functor's kSecondLogits: differentiable logits replace the targets

    @property
    def element_wise(self) -> bool:
        return self.groupings == ("element",)


class Term(NamedTuple):
    """A loss with its own arguments, checked. Functions and modules pass it to ``_dispatch``."""

    spec: LossSpec
    parameters: tuple[float, ...] = ()  # the functor's
    average: str | None = None  # the grouping, if the loss has several
    threshold: Any = 0.0
    label_parameter: tuple[str, Any] | None = None  # its public name and value
    alone: bool = False  # the loss needs more than one evaluation, so it cannot share a pass

    @property
    def grouping(self) -> str:
        return self.average or self.spec.groupings[0]


_Arguments = ParamSpec("_Arguments")


def checked_once(make: Callable[_Arguments, Term]) -> Callable[_Arguments, Term]:
    """Return ``make``, which checks the same numbers and words once: it keeps the terms of its last 256 arguments.

    It must refuse tensors, whose values can change.
    """
    known = cast("Callable[_Arguments, Term]", lru_cache(maxsize=256, typed=True)(make))

    @wraps(make)
    def term(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Term:
        if not torch.compiler.is_dynamo_compiling():
            try:
                return known(*args, **kwargs)
            except TypeError:  # an argument has no hash, or has a type that make refuses
                pass
        return make(*args, **kwargs)

    return term


_losses: dict[str, LossSpec] = {}


def register(spec: LossSpec) -> LossSpec:
    """Add ``spec`` to the list. Each module of ``mlloss_cuda.losses`` calls this once."""
    if spec.name in _losses:
        raise ValueError(f"a loss named {spec.name!r} is registered already")
    _losses[spec.name] = spec
    _ops.declare_counts(spec.name, _ops.Counts(spec.coefficients, spec.statistics, spec.second_pass_sums))
    return spec


def _no_reference(*_: Any) -> torch.Tensor:
    raise NotImplementedError("a compound has no reference of its own; it is the sum of the references of its terms")


def compound(terms: Sequence[tuple[float, Term]]) -> Term:
    """Return one term for a weighted sum of terms, which engines evaluate as one loss whose groups are rows."""
    specs = [term.spec for _, term in terms]
    name = _ops.COMPOUND.join(spec.name for spec in specs)
    parameters: tuple[float, ...] = ()
    for coefficient, term in terms:
        own = (coefficient, *term.parameters)
        parameters += own + (0.0,) * (_ops.TERM_PARAMETERS - len(own))
    counts = _ops.counts_of(name)
    spec = LossSpec(
        name,
        ("samples",),
        counts.coefficients,
        _no_reference,
        counts.statistics,
        label_parameter=any(spec.label_parameter for spec in specs),
        softmax_over_labels=any(spec.softmax_over_labels for spec in specs),
    )
    own_numbers = [term.label_parameter for _, term in terms if term.label_parameter is not None]
    return Term(spec, parameters, None, terms[0][1].threshold, own_numbers[0] if own_numbers else None)


def all_losses() -> tuple[LossSpec, ...]:
    """Return all registered losses, in the order of registration."""
    return tuple(_losses.values())
