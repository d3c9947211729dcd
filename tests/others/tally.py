"""The outcomes of comparisons with other packages, counted and printed at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["OUTCOMES", "Tally", "lines"]

OUTCOMES = ("equal", "better in float64", "different by documented choice")
_PROPERTY = "compared"


class Tally:
    """The comparisons of one test. A comparison with none of the :data:`OUTCOMES` fails the test."""

    def __init__(self, properties: list[tuple[str, Any]]) -> None:
        self._properties = properties

    def _add(self, package: str, outcome: str) -> None:
        self._properties.append((_PROPERTY, (package, outcome)))

    def equal(self, package: str, ours: Tensor | float, theirs: Tensor | float, rtol: float, atol: float) -> None:
        """Assert that the two are equal up to roundings."""
        torch.testing.assert_close(_double(ours), _double(theirs), rtol=rtol, atol=atol, equal_nan=True)
        self._add(package, OUTCOMES[0])

    def near(self, package: str, ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
        """Assert that our float32 error is at most four times theirs, relative to the largest float64 result.

        Errors of a few roundings are ignored on either side. If theirs is more than four times ours, ours is better.
        """
        scale = exact.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        own, other = (((_double(each) - exact).abs().max() / scale).item() for each in (ours, theirs))
        roundings = 8 * torch.finfo(torch.float32).eps
        if not own <= max(roundings, 4 * other):
            raise AssertionError(f"{package}: off by {own:.2g} of the largest, where theirs is by {other:.2g}")
        self._add(package, OUTCOMES[0] if other <= max(roundings, 4 * own) else OUTCOMES[1])

    def documented(self, package: str, holds: bool, choice: str) -> None:
        """Assert that the two differ as documented: ``holds`` says whether they do."""
        assert holds, f"{package}: not the documented difference: {choice}"
        self._add(package, OUTCOMES[2])


def _double(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value).detach().double()


def lines(reports: Iterable[Any]) -> list[str]:
    """Return a line for each package and one for all, from the tests' reports."""
    # A pair from another process arrives as a list.
    counts = Counter(
        tuple(value)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    )
    packages = sorted({package for package, _ in counts}, key=str.lower)
    if not packages:
        return []
    width = max(map(len, packages))
    shown = [
        f"{package:{width}}  " + ", ".join(f"{counts[package, outcome]} {outcome}" for outcome in OUTCOMES)
        for package in packages
    ]
    total = [f"{sum(counts[package, outcome] for package in packages)} {outcome}" for outcome in OUTCOMES]
    return [*shown, f"{'all':{width}}  " + ", ".join(total)]
