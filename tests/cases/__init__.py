"""Each loss's cases for the shared tests: its arguments, and its definition written out once more."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from torch import Tensor

from mlloss_cuda import _registry


def compound_of(terms: Sequence[tuple[float, Any]]) -> _registry.Term:
    """Return a compound loss's terms as the single term that engines receive, in the order of their names."""
    single = [(coefficient, loss.term()) for coefficient, loss in terms]
    return _registry.compound(sorted(single, key=lambda pair: pair[1].spec.name))


@dataclass(frozen=True)
class Case:
    """One loss with one set of its own arguments."""

    spec: str  # name in the registry
    function: Callable[..., Tensor]
    module: type
    own: dict[str, Any] = field(default_factory=dict)
    parameters: tuple[float, ...] = ()  # the numbers that the functor receives
    # (s [L], y [L]) -> the loss of one row (or its elements' losses) in float64, straight from the paper
    definition: Callable[[Tensor, Tensor], Tensor] | None = None
    # Whether the case stands for a path through the engines: it meets every dtype, layout, strategy and reduction in
    # every combination. Others show that their functor is right: each value of a test's parameters once, one strategy.
    path: bool = False
    derivative: bool = True  # the gradient is the value's derivative, not another one by definition
    number: int = 0  # among all cases
    first: bool = False  # the first case of its function

    def __call__(self, logits: Tensor, targets: Any, **arguments: Any) -> Tensor:
        return self.function(logits, targets, **{**self.own, **arguments})

    @property
    def label(self) -> str:
        if "terms" in self.own:
            return self.spec
        own = ",".join(f"{name}={value}" for name, value in self.own.items())
        return f"{self.function.__name__.removesuffix('_loss')}({own})"

    @property
    def registered(self) -> _registry.LossSpec:
        if "terms" in self.own:
            return compound_of(self.own["terms"]).spec
        return next(spec for spec in _registry.all_losses() if spec.name == self.spec)

    @property
    def element_wise(self) -> bool:
        return self.registered.element_wise

    @property
    def softmax_over_labels(self) -> bool:
        return self.registered.softmax_over_labels

    @property
    def grouping(self) -> str:
        return self.own.get("average", self.registered.groupings[0])

    def takes(self, indices: dict[str, int], sizes: dict[str, int]) -> bool:
        """Whether this case takes a test's combination of parameters: all of them, or those on a diagonal of its own.

        ``indices`` has the index of each parameter's value, ``sizes`` the number of its values.
        """
        if self.path or not sizes:
            return True
        turned = {
            name: (index + place * self.number) % sizes[name]
            for place, (name, index) in enumerate(sorted(indices.items()))
        }
        step = turned[max(sizes, key=lambda name: sizes[name])]  # the longest parameter takes each value once
        return all(index == step % sizes[name] for name, index in turned.items())


def modules() -> list[ModuleType]:
    """Return this folder's modules, first those of losses that stand for a path through the engines."""
    found = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda module: (not any(case.path for case in module.CASES), module.__name__))


def flips() -> list[tuple[str, str, str, str]]:
    """Return each loss's name, its header, and a term of its gradient or value: as it is, and with the sign flipped."""
    return [module.FLIP for module in modules() if hasattr(module, "FLIP")]


def all_cases() -> list[Case]:
    cases = [case for module in modules() for case in module.CASES]
    functions = [case.function for case in cases]
    return [
        replace(case, number=number, first=functions.index(case.function) == number)
        for number, case in enumerate(cases)
    ]
