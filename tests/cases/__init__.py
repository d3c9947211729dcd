"""What each loss brings to the shared tests: variations, and its definition written out once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One loss with one set of its own arguments."""

    spec: str  # name in the registry
    function: Callable[..., Tensor]
    module: type
    own: dict[str, Any] = field(default_factory=dict)
    parameters: tuple[float, ...] = ()  # what of them reaches the functor
    # (s [L], y [L]) -> the loss of one row (or its elements' losses) in float64, straight from the paper
    definition: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, logits: Tensor, targets: Any, **arguments: Any) -> Tensor:
        return self.function(logits, targets, **{**self.own, **arguments})

    @property
    def label(self) -> str:
        own = ",".join(f"{name}={value}" for name, value in self.own.items())
        return f"{self.spec}({own})"


def all_cases() -> list[Case]:
    from . import dice, sigmoid_focal, zlpr

    return [*zlpr.CASES, *sigmoid_focal.CASES, *dice.CASES]
