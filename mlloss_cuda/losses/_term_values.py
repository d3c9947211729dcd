"""The values of the terms of a sum of losses, for logging. A call keeps the numbers that they are computed from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PassResult", "TermValues"]


class PassResult(NamedTuple):
    """The results of one pass over the logits, from which its terms' values follow. No tensor requires a gradient."""

    places: tuple[int, ...]  # the indices of the terms
    shares: tuple[float, ...]  # the factor of each term's own value in the pass; empty for a term that ran by itself
    found: Tensor  # the coefficients of the pass, [C, rows]; for a term that ran by itself, its value


class TermValues(NamedTuple):
    """The terms' values of one call, which are computed when they are read: a step that logs nothing computes none.

    They are computed again for each reading, so that they follow a CUDA graph that replays the call.
    """

    passes: tuple[PassResult, ...]
    leading: tuple[int, ...]  # the leading dimensions of the logits, for values of rows
    reduction: str
    sample_weight: Tensor | None
    normalizer: float | Tensor | None

    def fixed(self) -> TermValues:
        """Return the same values, computed now if they depend on a tensor of the caller, who may change it."""
        if self.sample_weight is None and not isinstance(self.normalizer, Tensor):
            return self
        places = tuple(range(sum(len(each.places) for each in self.passes)))
        results = tuple(PassResult((i,), (), value) for i, value in zip(places, self.stacked().unbind(-1), strict=True))
        return self._replace(passes=results, sample_weight=None, normalizer=None)

    def stacked(self) -> Tensor:
        """Return the values ``[K]``, or ``[..., K]`` under ``reduction="none"``."""
        values: dict[int, Tensor] = {}
        for each in self.passes:
            if each.shares:
                found = self._of_pass(each.found, each.shares)
            else:
                found = [each.found.reshape(self.leading) if self.reduction == "none" else each.found]
            values.update(zip(each.places, found, strict=True))
        return torch.stack([values[i] for i in range(len(values))], -1)

    def _of_pass(self, coefficients: Tensor, shares: tuple[float, ...]) -> Iterable[Tensor]:
        """Return each term's own value from the coefficients of a pass, whose last rows are the terms' values."""
        rows = coefficients[-len(shares) :]
        if self.sample_weight is not None:
            weight = self.sample_weight.to(rows.dtype).flatten()
            rows = torch.where(weight == 0, 0.0, rows * weight)
        if self.reduction == "none":
            return [own.reshape(self.leading) for own in rows]
        totals = rows.sum(1)
        if self.reduction != "sum":
            totals = totals / rows.shape[1] if rows.shape[1] else totals * math.nan
        elif self.normalizer is not None:
            totals = totals / self.normalizer
        return [own if share == 1.0 else own * share for own, share in zip(totals.unbind(), shares, strict=True)]
