"""Diagonals of grids of options, and comparisons of a loss with another package's in both precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inputs import Outcome, evaluate
from .tally import Tally

__all__ = ["SCALES", "Compared", "diagonal", "doubled", "drawn"]

# Standard deviations of logits: typical ones, and one that gives nearly certain predictions.
SCALES = (1.0, 3.0, 12.0)


def diagonal(count: int, **axes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield ``count`` settings with every value of every axis, in changing combinations with the other axes."""
    for i in range(count):
        chosen = {}
        for shift, (name, values) in enumerate(axes.items()):
            # Each round of an axis begins one value later than the last, so axes of equal length meet in all pairs.
            place = i + shift * (i // len(values))
            chosen[name] = values[place % len(values)]
        yield chosen


def drawn(seed: int, shape: tuple[int, ...], scale: float, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return float32 logits and 0/1 targets; each row, or each channel of a sample, has positives and negatives."""
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(shape, generator=generator)
    y = torch.rand(shape, generator=generator) < share
    first = y.flatten(2) if y.dim() > 2 else y
    first[..., 0], first[..., 1] = True, False
    return x, y


@contextmanager
def doubled() -> Iterator[None]:
    """Make ``tensor.float()`` return float64 within the block, for losses that always compute in float32."""
    own = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = own  # type: ignore[method-assign]


class Compared(NamedTuple):
    """Comparisons with one package."""

    tally: Tally
    package: str

    def losses(
        self, ours: Callable[..., Tensor], theirs: Callable[..., Tensor], logits: Tensor, targets: Tensor
    ) -> None:
        """Compare value and gradient: equal in float64, and in float32 ours at least about as accurate as theirs."""
        wide = logits.double()
        soft = targets.double() if targets.dtype in (torch.bool, torch.float32) else targets
        with doubled():
            exact = evaluate(theirs, wide, soft)
        got = evaluate(ours, wide, soft)
        narrow = targets.float() if targets.dtype in (torch.bool, torch.float32) else targets
        own, other = evaluate(ours, logits, narrow), evaluate(theirs, logits, narrow)
        for name in Outcome.__dataclass_fields__:
            true = getattr(exact, name).double()
            if not bool(true.isfinite().all()):
                raise AssertionError(f"{self.package}: not finite in float64; leave such a setting out")
            bound = 1e-9 * max(true.abs().max().item(), 1e-30)
            self.tally.equal(self.package, getattr(got, name).reshape(true.shape), true, rtol=1e-7, atol=bound)
            narrow_own = getattr(own, name).reshape(true.shape)
            self.tally.near(self.package, narrow_own, getattr(other, name), true)
