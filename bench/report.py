"""Tables and result files of ``python -m bench``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .gates import Gate, over
from .implementations import LABELS, OURS
from .markdown import ratio, table
from .measure import Measured
from .memory import Remembered
from .plan import shape_of
from .samples import Samples, as_stored

__all__ = ["as_json", "disturbed", "memory_table", "time_table", "written"]


def disturbed(measured: Sequence[Measured]) -> str:
    """Return a warning if other processes took a share of the processor time."""
    worst = max((m.others or 0.0 for m in measured), default=0.0)
    if all(m.quiet for m in measured):
        return ""
    return f"disturbed: other processes had up to {worst:.0%} of the processor time; verdicts are marked with a ?"


def time_table(measured: Sequence[Measured]) -> str:
    """Return each implementation's time and, for ours, how many times faster than the peers it is."""
    head = (
        "forward + backward",
        "median ms",
        "min",
        "spread",
        "copies",
        "of the floor",
        "x eager",
        "x compile",
        "x published",
        "x published + compile",
    )
    rows = []
    for m in measured:
        for name, samples in m.samples.items():
            ours = name in OURS
            floor = m.of_the_floor(name)
            faster = [over(m, peer, name) if ours else None for peer in ("eager", "compile", "plain", "plain-compile")]
            rows.append(
                (
                    LABELS[name] if name == "copy" else f"{m.case}: {LABELS[name]}",
                    f"{samples.median:.3f}",
                    f"{samples.minimum:.3f}",
                    f"{samples.spread:.0%}",
                    ratio(over(m, name, "copy")),
                    "" if floor is None else f"{floor:.0%}",
                    *map(ratio, faster),
                )
            )
    return table(head, rows, padded=True)


def memory_table(rows: Sequence[Remembered]) -> str:
    """Return memory by case and implementation."""
    head = ("beyond logits and targets, in units of the logits", "rows x labels", "dtype", "after forward", "peak")
    lines = [
        (
            f"{row.case}: {LABELS[row.implementation]}",
            shape_of(row.rows, row.labels),
            row.dtype,
            f"{row.held:.2f}",
            f"{row.peak:.2f}",
        )
        for row in rows
    ]
    return table(head, lines, padded=True)


def _summary(m: Measured, name: str, samples: Samples) -> dict[str, Any]:
    figures = {"median_ms": samples.median, "min_ms": samples.minimum, "spread": samples.spread}
    floor = m.of_the_floor(name)
    return figures if floor is None else {**figures, "of_the_floor": floor}


def as_json(
    header: dict[str, Any],
    measured: Sequence[Measured],
    memory: Sequence[Remembered],
    found: Sequence[Gate],
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all results, samples included."""
    times = [
        {**asdict(m), "summary": {name: _summary(m, name, samples) for name, samples in m.samples.items()}}
        for m in measured
    ]
    return {
        **header,
        "times": times,
        "memory": [as_stored(row) for row in memory],
        "gates": [{**asdict(gate), "passed": gate.passed} for gate in found],
        "left_out": list(left_out),
    }


def written(results: dict[str, Any]) -> str:
    """Return JSON with one entry a line, and each list of numbers on one line."""
    text = json.dumps(results, indent=1)
    return re.sub(r"\[\s+([-+.\de,\s]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"
