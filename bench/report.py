"""Tables, gates and machine-readable results."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import mlloss_cuda

from .competitors import LABELS, OURS
from .measure import Measured, Remembered, Samples
from .plan import MAIN_SHAPE, SMALL_SHAPE

__all__ = [
    "Gate",
    "about",
    "as_json",
    "disturbed",
    "gate_table",
    "gates",
    "memory_gates",
    "memory_table",
    "table",
    "time_table",
    "written",
]

# What a release has to reach at MAIN_SHAPE on 2 quiet cores, float32: (times faster than the
# reference, than torch.compile of it, at most so many copies of the logits).
_WANTED = {"zlpr": (14.0, 8.0, 4.0), "focal": (9.0, 2.2, 6.0), "dice": (4.0, 2.2, 4.0)}
# Of sums: what tells one loop from one loop a term.
_MOST_COPIES = {"zlpr+dice": 4.0, "zlpr+focal+dice": 6.0}
_NOISE = 1.05  # "no slower" allows this
_LEAST_LABELS = 8_192  # of memory's gates: below, the row's coefficients and pages' ends weigh too much


@dataclass(frozen=True)
class Gate:
    """One figure and what is wanted of it."""

    what: str
    measured: float
    wanted: float
    at_most: bool
    by_minima: float | None = None  # the same from the least disturbed runs
    published: float | None = None  # the same against the formula as other packages write it
    quiet: bool = True  # False: the machine was busy, so it has to be measured again

    @property
    def passed(self) -> bool:
        """Whether the figure is what is wanted."""
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted


def _over(measured: Measured, name: str, unit: str, minima: bool = False) -> float | None:
    """Median time of ``name`` over that of ``unit``."""
    samples = measured.samples
    if name not in samples or unit not in samples:
        return None
    if minima:
        return samples[name].minimum / samples[unit].minimum
    return samples[name].median / samples[unit].median


def _ratio(
    m: Measured, what: str, name: str, unit: str, wanted: float, at_most: bool, published: float | None = None
) -> list[Gate]:
    """The gate on ``name`` over ``unit``, if both were timed."""
    measured = _over(m, name, unit)
    if measured is None:
        return []
    return [Gate(f"{m.case}: {what}", measured, wanted, at_most, _over(m, name, unit, True), published, m.quiet)]


def _main_gates(m: Measured) -> list[Gate]:
    eager, compiled, copies = _WANTED[m.case]
    plain, both = _over(m, "plain", "fused"), _over(m, "plain-compile", "fused")
    return [
        *_ratio(m, "times faster than eager", "eager", "fused", eager, False, plain),
        *_ratio(m, "times faster than torch.compile", "compile", "fused", compiled, False, both),
        *_ratio(m, "copies of the logits", "fused", "copy", copies, True),
    ]


def gates(measured: Sequence[Measured]) -> list[Gate]:
    """The gates that these measurements decide; none at other shapes, on GPUs or in other dtypes."""
    found: list[Gate] = []
    for m in measured:
        if (m.device, m.dtype) != ("cpu", "float32"):
            continue
        if (m.rows, m.labels) == MAIN_SHAPE:
            found += _main_gates(m) if m.case in _WANTED else []
            if m.case in _MOST_COPIES:
                found += _ratio(m, "copies of the logits", "fused", "copy", _MOST_COPIES[m.case], True)
            found += _ratio(m, "CSR over dense targets", "csr", "fused", _NOISE, True)
        elif (m.rows, m.labels) == SMALL_SHAPE:
            plain = _over(m, "fused", "plain")
            found += _ratio(m, "64 x 5,000, time over eager's", "fused", "eager", 1.0, True, plain)
    return found


def disturbed(measured: Sequence[Measured]) -> str:
    """A warning, if other processes took part of the machine."""
    worst = max((m.others or 0.0 for m in measured), default=0.0)
    if all(m.quiet for m in measured):
        return ""
    return f"disturbed: other processes had up to {worst:.0%} of the processor time; verdicts are marked with a ?"


def memory_gates(rows: Sequence[Remembered]) -> list[Gate]:
    """The gradient and nothing else; in place not even that."""
    wanted = {"fused": 1.05, "csr": 1.05, "inplace": 0.05}
    return [
        Gate(f"{row.case}: peak memory, {LABELS[row.competitor]}", row.peak, wanted[row.competitor], True)
        for row in rows
        if row.competitor in wanted and row.labels >= _LEAST_LABELS
    ]


# ---- tables ----


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _factor(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def time_table(measured: Sequence[Measured]) -> str:
    """One block a case; each competitor's time, and how many times faster the library's rows are."""
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
            over = [_over(m, peer, name) if ours else None for peer in ("eager", "compile", "plain", "plain-compile")]
            rows.append(
                (
                    LABELS[name] if name == "copy" else f"{m.case}: {LABELS[name]}",
                    f"{samples.median:.3f}",
                    f"{samples.minimum:.3f}",
                    f"{samples.spread:.0%}",
                    _factor(_over(m, name, "copy")),
                    "" if floor is None else f"{floor:.0%}",
                    *map(_factor, over),
                )
            )
    return table(head, rows)


def memory_table(rows: Sequence[Remembered]) -> str:
    """Memory by case and competitor."""
    head = ("beyond logits and targets, in units of the logits", "rows x labels", "dtype", "after forward", "peak")
    lines = [
        (f"{r.case}: {LABELS[r.competitor]}", f"{r.rows} x {r.labels:,}", r.dtype, f"{r.held:.2f}", f"{r.peak:.2f}")
        for r in rows
    ]
    return table(head, lines)


def gate_table(found: Sequence[Gate]) -> str:
    """Every gate, with its verdict."""
    head = ("", "measured", "wanted", "verdict", "by minima", "against the published formula")
    rows = [
        (
            gate.what,
            f"{gate.measured:.2f}",
            f"{'<=' if gate.at_most else '>='} {gate.wanted:g}",
            ("pass" if gate.passed else "FAIL") + ("" if gate.quiet else "?"),
            "" if gate.by_minima is None else f"{gate.by_minima:.2f}",
            _factor(gate.published),
        )
        for gate in found
    ]
    passed = sum(gate.passed for gate in found)
    busy = sum(not gate.quiet for gate in found)
    doubt = f"; {busy} measured on a busy machine (?): run again" if busy else ""
    return f"{table(head, rows)}\n{passed} of {len(found)} gates pass{doubt}"


# ---- where and with what ----


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def about(seed: int, warm: bool) -> dict[str, Any]:
    """The machine, the versions, the commit, and how busy the machine is."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": {
            "cpu": _cpu_model(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_before": os.getloadavg()[0],
        },
        "versions": {
            "mlloss_cuda": mlloss_cuda.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()),
        },
        "commit": os.environ.get("COMMIT") or _git("rev-parse", "HEAD"),  # given where the tree is a bare copy
        # None: nobody knows.
        "modified": bool(_git("status", "--porcelain", "--", ".", ":!results")) if _git("rev-parse", "HEAD") else None,
        "seed": seed,
        "warm_allocator": warm,
    }


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
    """Everything, samples included."""
    times = [
        {**asdict(m), "summary": {name: _summary(m, name, samples) for name, samples in m.samples.items()}}
        for m in measured
    ]
    return {
        **header,
        "times": times,
        "memory": [asdict(row) for row in memory],
        "gates": [{**asdict(gate), "passed": gate.passed} for gate in found],
        "left_out": list(left_out),
    }


def written(results: dict[str, Any]) -> str:
    """As JSON, an entry a line, but a list of numbers on one line."""
    text = json.dumps(results, indent=1)
    return re.sub(r"\[\s+([-+.\de,\s]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"
