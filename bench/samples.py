"""Samples of times: their statistics, the rounds in which they are taken, and their names in result files."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Sampled", "Samples", "as_stored", "rounds", "spread"]

Item = TypeVar("Item")

_STORED = {"implementation": "competitor"}  # names in result files, which older commits have written too


def spread(ms: Sequence[float]) -> float:
    """Return the interquartile range over the median."""
    if len(ms) < 2:
        return 0.0
    low, _, high = statistics.quantiles(ms, n=4, method="inclusive")
    return (high - low) / statistics.median(ms)


class Sampled:
    """The statistics of a class that has samples in milliseconds."""

    ms: list[float]

    @property
    def median(self) -> float:
        """The figure that tables and gates use."""
        return statistics.median(self.ms)

    @property
    def minimum(self) -> float:
        """The least disturbed sample."""
        return min(self.ms)

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        return spread(self.ms)


@dataclass
class Samples(Sampled):
    """Times of one implementation on a CPU."""

    ms: list[float] = field(default_factory=list)
    page_faults: list[int] = field(default_factory=list)


def rounds(
    items: Sequence[Item], count: int, seconds: float = math.inf, enough: int = 0
) -> Iterator[tuple[int, list[Item]]]:
    """Yield each round's number and the items in a new random order: a noisy moment hits all of them alike.

    There are ``count`` rounds, or fewer: after ``seconds``, no round begins once there were ``enough``.
    """
    order, end = random.Random(0), time.monotonic() + seconds
    for number in range(count):
        if number >= enough and time.monotonic() > end:
            return
        yield number, order.sample(items, len(items))


def as_stored(entry: Any) -> dict[str, Any]:
    """Return a dataclass's fields by the names that they have in result files."""
    return {_STORED.get(name, name): value for name, value in vars(entry).items()}
