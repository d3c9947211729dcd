"""The declarative list of losses: what dispatch, tests, bench and documentation go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _ops

__all__ = ["LossSpec", "all_losses", "register"]


@dataclass(frozen=True)
class LossSpec:
    """One loss as the engines know it.

    ``reference`` is the definition in plain PyTorch, from ``s`` after scale, bias and threshold and ``y``
    in [0, 1] (``soft``: not only 0 and 1). Element-wise: ``reference(s, y, soft, parameters)``, a value
    for each element, and ``label_parameter=`` ([L] or None) where the functor takes one; of ``raw_targets``
    ``y`` is another logit, any number. Groups:
    ``reference(s, y, soft, w, parameters, dim)``, with ``w`` a weight for each element or None, reduced
    over ``dim``.
    """

    name: str  # as in csrc/losses/registry.h
    groupings: tuple[str, ...]  # of _ops.GROUPINGS
    coefficients: int  # the functor's kCoefficients
    reference: Callable[..., torch.Tensor]
    label_parameter: bool = False  # the functor's kLabelParameter
    competing: bool = False  # the functor's kCompeting: what is excluded comes as s = -inf
    raw_targets: bool = False  # the functor's kRawTargets: other logits in the targets' place, differentiable too

    @property
    def element_wise(self) -> bool:
        return self.groupings == ("element",)


_losses: dict[str, LossSpec] = {}


def register(spec: LossSpec) -> LossSpec:
    """Add ``spec`` to the list; called once by each module of ``mlloss_cuda.losses``."""
    if spec.name in _losses:
        raise ValueError(f"a loss named {spec.name!r} is registered already")
    _losses[spec.name] = spec
    _ops.declare_coefficients(spec.name, spec.coefficients)
    return spec


def all_losses() -> tuple[LossSpec, ...]:
    """Every registered loss, in the order of registration."""
    return tuple(_losses.values())
