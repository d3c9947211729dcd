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

    ``reference(s, y, w, parameters, dim)`` is the definition in plain PyTorch: ``s`` after scale,
    bias and threshold, ``y`` in [0, 1], ``w`` a weight for each element or None. Element-wise
    losses return a value for each element and leave ``w`` alone; group losses reduce over ``dim``.
    """

    name: str  # as in csrc/losses/registry.h
    groupings: tuple[str, ...]  # of _ops.GROUPINGS
    coefficients: int  # the functor's kCoefficients
    cuda_groupings: tuple[str, ...]  # those that the CUDA engine has so far
    reference: Callable[..., torch.Tensor]

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
