"""The declarative list of losses: what dispatch, tests, bench and documentation go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from . import _ops

__all__ = ["LossSpec", "Term", "all_losses", "compound", "register"]


@dataclass(frozen=True)
class LossSpec:
    """One loss as the engines know it.

    ``reference`` is the definition in plain PyTorch, from ``s`` after scale, bias and threshold and ``y``
    in [0, 1] (``soft``: not only 0 and 1). Element-wise: ``reference(s, y, soft, parameters)``, a value
    for each element, and ``label_parameter=`` ([L] or None) where the functor takes one; of ``second_logits``
    ``y`` is another logit, any number. Groups:
    ``reference(s, y, soft, w, parameters, dim)``, with ``w`` a weight for each element or None, reduced
    over ``dim``.
    """

    name: str  # as in csrc/losses/registry.h
    groupings: tuple[str, ...]  # of _ops.GROUPINGS
    coefficients: int  # the functor's kCoefficients
    reference: Callable[..., torch.Tensor]
    statistics: int = 0  # the functor's kMaxima + kSums
    label_parameter: bool = False  # the functor's kLabelParameter
    softmax_over_labels: bool = False  # the functor's kCompeting: what is excluded comes as s = -inf
    second_pass_sums: int = 0  # the functor's kLateSums: with them, a third visit, and no place in a compound's pass
    second_logits: bool = False  # the functor's kRawTargets: other logits in the targets' place, differentiable too

    @property
    def element_wise(self) -> bool:
        return self.groupings == ("element",)


class Term(NamedTuple):
    """A loss with its own arguments, checked: what its function and its module hand to ``_dispatch``."""

    spec: LossSpec
    parameters: tuple[float, ...] = ()  # the functor's
    average: str | None = None  # the grouping, where there are several
    threshold: Any = 0.0
    label_parameter: tuple[str, Any] | None = None  # what the functor has of each label's own, by its public name
    alone: bool = False  # more than this one evaluation: no part of another loss's pass

    @property
    def grouping(self) -> str:
        return self.average or self.spec.groupings[0]


_losses: dict[str, LossSpec] = {}


def register(spec: LossSpec) -> LossSpec:
    """Add ``spec`` to the list; called once by each module of ``mlloss_cuda.losses``."""
    if spec.name in _losses:
        raise ValueError(f"a loss named {spec.name!r} is registered already")
    _losses[spec.name] = spec
    _ops.declare_counts(spec.name, _ops.Counts(spec.coefficients, spec.statistics, spec.second_pass_sums))
    return spec


def _no_reference(*_: Any) -> torch.Tensor:
    raise NotImplementedError("the reference of a compound is the sum of its terms'")


def compound(terms: Sequence[tuple[float, Term]]) -> Term:
    """Terms with their coefficients as one: what engines take for a loss of several functors, of rows."""
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
    """Every registered loss, in the order of registration."""
    return tuple(_losses.values())
