"""The tables of the README, of the pages and of the terminal, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["factor", "head_lines", "mebibytes", "ratio", "row_line", "table"]


def factor(value: float | None) -> str:
    """Return a ratio with two digits; a hyphen stands for a value that was not measured."""
    return "-" if value is None else f"{value:.{1 if value < 9.95 else 0}f} \N{MULTIPLICATION SIGN}"


def ratio(value: float | None) -> str:
    """Return a ratio with three digits; nothing stands for a value that was not measured."""
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def mebibytes(size: float | None) -> str:
    """Return a size in MiB; nothing stands for a value that was not measured."""
    return "" if size is None else f"{size / 2**20:,.0f}"


def row_line(cells: Sequence[str]) -> str:
    """Return one row of a table."""
    return f"| {' | '.join(cells)} |"


def head_lines(head: Sequence[str]) -> str:
    """Return a table's head and the rule beneath it, for a table that is printed row by row."""
    return f"{row_line(head)}\n|{'---|' * len(head)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], padded: bool = False) -> str:
    """Return a Markdown table.

    ``padded``: cells have their column's width, the first column to the left and the others to the right, as it is
    read in a terminal.
    """
    if not padded:
        return "\n".join([head_lines(head), *map(row_line, rows)])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    justify = [str.ljust, *[str.rjust] * (len(head) - 1)]
    lines = [
        row_line([to(cell, width) for to, cell, width in zip(justify, row, widths, strict=True)])
        for row in [head, *rows]
    ]
    rule = [f"{'-' * (width + 1)}{'-' if i == 0 else ':'}" for i, width in enumerate(widths)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
