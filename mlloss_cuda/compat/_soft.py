"""A warning for targets between 0 and 1, where another package's definition for them differs from ours."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .. import _validation as check

__all__ = ["SoftTargets"]


class SoftTargets(nn.Module):
    """A module that warns once about dense targets between 0 and 1; it reads only targets on the CPU."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._warned_of_soft_targets = False

    def _warn_of_soft_targets(self, targets: Any, theirs: str) -> None:
        """Warn if a target is neither 0, 1 nor negative; ``theirs`` describes what the other package computes."""
        if self._warned_of_soft_targets or not isinstance(targets, Tensor) or targets.layout != torch.strided:
            return
        if not (targets.is_floating_point() and check.readable(targets)):
            return
        if bool(((targets > 0) & (targets < 1)).any()):
            self._warned_of_soft_targets = True
            text = f"targets between 0 and 1 give another value than the original, {theirs}: see the class's docstring"
            warnings.warn(text, UserWarning, stacklevel=3)
