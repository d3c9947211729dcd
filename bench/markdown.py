"""What the README's tables and the benchmarks' page write alike."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["factor", "table"]


def factor(value: float | None) -> str:
    """Two digits, and a hyphen for what was not measured."""
    return "-" if value is None else f"{value:.{1 if value < 9.95 else 0}f} \N{MULTIPLICATION SIGN}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """With its head's rule."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])
