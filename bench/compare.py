"""``python -m bench compare BEFORE AFTER``: the figures that became slower by more than the two runs' spreads explain.

Each of our figures is compared by itself. All of them together are compared with the peers in the same two runs, which
shows a loss of speed that is within the spread of each figure. A figure of ours that is gone counts as slower.

Exit status: 0, no figure of ours became slower; 1, one did; 2, the results cannot be compared.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from .figures import Figure, Results, load
from .implementations import LABELS, OURS
from .markdown import table
from .plan import shape_of

__all__ = ["Change", "changes", "main"]

_LEAST = 0.05  # the least change that counts, however small the spreads
_MEMORY = 0.05  # the least growth of memory that counts, in logits


@dataclass(frozen=True)
class Change:
    """One figure before and after."""

    before: Figure
    after: Figure
    ratio: float  # time after over time before
    allowed: float  # the distance from 1 that the two spreads explain

    @property
    def slower(self) -> bool:
        """True if the time grew by more than is allowed."""
        return self.ratio > 1 + self.allowed

    @property
    def faster(self) -> bool:
        """True if the time fell by more than is allowed."""
        return self.ratio < 1 / (1 + self.allowed)

    @property
    def quiet(self) -> bool:
        """True if both runs had the machine to themselves."""
        return self.before.quiet and self.after.quiet


def _change(before: Figure, after: Figure, least: float, of_the_floor: bool) -> Change:
    ratio = after.ms / before.ms
    if of_the_floor and before.of_the_floor and after.of_the_floor:
        ratio = before.of_the_floor / after.of_the_floor
    # The spreads add up as errors of independent measurements do.
    return Change(before, after, ratio, max(least, math.hypot(before.spread, after.spread)))


def changes(
    before: Results, after: Results, least: float = _LEAST, of_the_floor: bool = False, peers: bool = False
) -> list[Change]:
    """Return every figure that both results have; ours alone, unless ``peers``."""
    known = {figure.key: figure for figure in before.figures}
    return [
        _change(known[figure.key], figure, least, of_the_floor)
        for figure in after.figures
        if figure.key in known and (figure.ours or peers) and not (of_the_floor and figure.of_the_floor is None)
    ]


def _together(found: list[Change]) -> float | None:
    """Return how much slower ours became, as a geometric mean, beside peers and copies: a busy machine slows both."""
    quiet = [change for change in found if change.quiet]
    logs = [[math.log(change.ratio) for change in quiet if change.after.ours == ours] for ours in (True, False)]
    return math.exp(statistics.fmean(logs[0]) - statistics.fmean(logs[1])) if all(logs) else None


def _name(figure: Figure) -> str:
    mode = "" if figure.mode == "step" else figure.mode
    return " ".join(filter(None, [f"{figure.case}: {LABELS[figure.implementation]}", mode, figure.strategy]))


def _gone(before: Results, after: Results) -> list[str]:
    """Return a line for each time of ours, and for all memory, that only the first results have."""
    kept = {figure.key for figure in after.figures}
    gone = [figure for figure in before.figures if figure.ours and figure.key not in kept]
    lines = [f"gone: {_name(f)}, {shape_of(f.rows, f.labels)}, {f.dtype}" for f in gone]
    if before.memory and not after.memory:
        lines.append("gone: all of memory")
    return lines


def _memory(before: Results, after: Results) -> list[str]:
    """Return a line for each implementation of ours that takes more memory than before."""
    named = ("case", "competitor", "rows", "labels", "dtype")
    known = {tuple(row[name] for name in named): row["peak"] for row in before.memory}
    grown = []
    for row in after.memory:
        key = tuple(row[name] for name in named)
        if row["competitor"] in OURS and row["peak"] > known.get(key, math.inf) + _MEMORY:
            what = f"{row['case']}: {LABELS[row['competitor']]}, {shape_of(row['rows'], row['labels'])}, {row['dtype']}"
            grown.append(f"more memory: {what}: {known[key]:.2f} logits before, {row['peak']:.2f} after")
    return grown


def _table(found: list[Change]) -> str:
    head = ("figure", "rows x labels", "dtype", "before ms", "after ms", "ratio", "allowed", "verdict")
    rows = []
    for change in sorted(found, key=lambda change: -change.ratio):
        figure = change.after
        verdict = ("slower" if change.slower else "faster") + ("" if change.quiet else "?")
        times = (f"{change.before.ms:.3f}", f"{figure.ms:.3f}", f"{change.ratio:.2f}", f"{1 + change.allowed:.2f}")
        rows.append((_name(figure), shape_of(figure.rows, figure.labels), figure.dtype, *times, verdict))
    return table(head, rows, padded=True)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--least", type=float, default=_LEAST, help="the least change that counts; default: %(default)s"
    )
    parser.add_argument(
        "--of-the-floor", action="store_true", help="compare shares of the floor, for different machines"
    )
    parser.add_argument("--peers", action="store_true", help="show the changes of peers too")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Print the figures that changed."""
    options = _arguments(given)
    try:
        before, after = load(options.before), load(options.after)
    except (OSError, ValueError) as error:
        print(f"cannot be compared: {error}", file=sys.stderr)
        return 2
    if before.machine != after.machine and not options.of_the_floor:
        machines = f"{before.machine}, and {after.machine}"
        print(f"cannot be compared: two machines ({machines}); --of-the-floor compares their shares", file=sys.stderr)
        return 2
    every = changes(before, after, options.least, options.of_the_floor, True)
    found = every if options.peers else [change for change in every if change.after.ours]
    if not any(change.after.ours for change in found):
        print("cannot be compared: no figure of ours is in both", file=sys.stderr)
        return 2
    changed = [change for change in found if change.slower or change.faster]
    slower = [change for change in changed if change.slower and change.after.ours]
    grown = [*_memory(before, after), *_gone(before, after)]
    together = _together(every)
    if together is not None and together > 1 + options.least:
        grown.append(f"slower all together: {together:.2f} times, compared with the peers")
    print(f"before: {before.provenance}\nafter:  {after.provenance}\n")
    print("\n".join(filter(None, [_table(changed) if changed else "", *grown])))
    quiet = [change for change in slower if change.quiet]
    print(f"{len(found)} compared: {len(slower)} of ours slower, {sum(change.faster for change in changed)} faster")
    if len(quiet) < len(slower):
        print(f"{len(slower) - len(quiet)} of them on a busy machine (?), which do not count: measure again")
    return 1 if quiet or grown else 0


if __name__ == "__main__":
    sys.exit(main())
