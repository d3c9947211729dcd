"""``python -m bench.gpu.profile``: what limits a kernel, by Nsight Compute, for one call of each informative loss.

``make gpu`` runs it under ``ncu``; by itself it only makes the calls. ``read`` reads the CSV that ``ncu`` prints.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..plan import shape_of
from .processes import ROOT, Part, Started, how

__all__ = ["Kernel", "Profiled", "profile", "read", "table"]

_SECTIONS = (
    "SpeedOfLight",
    "MemoryWorkloadAnalysis",
    "SchedulerStats",
    "WarpStateStats",
    "Occupancy",
    "LaunchStats",
)
# Metrics by name, since versions of ncu have them in different sections.
_DRAM = ("dram__bytes_read.sum", "dram__bytes_write.sum")
_FIGURES = {
    "seconds": "gpu__time_duration.sum",
    "dram_percent": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "compute_percent": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
_MARK = "spin_kernel"  # torch's kernel, one before each call: it separates the calls in ncu's output
_SAMPLE = ROOT / "tests" / "data" / "ncu_raw.csv"
_SCALES = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SECONDS = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3}
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(?!selected)(\w+?)_per_issue_active\.ratio")


# ---- what ncu prints ----


@dataclass(frozen=True)
class Kernel:
    """The figures of one launch; None stands for a figure that ncu did not print."""

    name: str
    seconds: float | None
    dram_bytes: float | None
    dram_percent: float | None  # share of the memory's peak
    compute_percent: float | None  # share of the multiprocessors' peak
    issue_percent: float | None  # share of cycles in which a scheduler issues
    occupancy_percent: float | None
    registers: float | None
    stall: str  # the main reason why warps wait, and its cycles an instruction


def _number(text: str, unit: str) -> float | None:
    """Return a value in bytes, seconds or percent; ncu groups thousands and may scale units."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    if unit in _SECONDS:
        return value * _SECONDS[unit]
    scaled = re.fullmatch(r"([KMGT])byte", unit)
    return value * _SCALES[scaled[1]] if scaled else value


def _stall(row: dict[str, float | None]) -> str:
    reasons = {
        found[1]: value
        for name, value in row.items()
        if (found := _STALL.fullmatch(name)) and value is not None and not found[1].endswith("not_issued")
    }
    if not reasons:
        return ""
    first = max(reasons, key=lambda reason: reasons[reason])
    return f"{first.replace('_', ' ')} {reasons[first]:.1f}"


def _kernel(name: str, row: dict[str, float | None]) -> Kernel:
    read, written = (row.get(metric) for metric in _DRAM)
    moved = None if read is None or written is None else read + written
    figures = {figure: row.get(metric) for figure, metric in _FIGURES.items()}
    return Kernel(name=name, dram_bytes=moved, stall=_stall(row), **figures)


def read(text: str) -> list[list[Kernel]]:
    """Return the kernels of each call from the output of ``ncu --csv --page raw``: a header, units, a row a launch.

    Lines of other programs are ignored. A launch of the mark begins a call.

    Raises:
        ValueError: there is no header, or no mark before the first kernel.
    """
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID",')), None)
    if begin is None:
        raise ValueError("ncu printed no table: " + " ".join(lines[-3:])[-300:])
    header, units, *rows = csv.reader(io.StringIO("\n".join(x for x in lines[begin:] if x.startswith('"'))))
    place = header.index("Kernel Name")
    calls: list[list[Kernel]] = []
    for row in rows:
        if _MARK in row[place]:
            calls.append([])
            continue
        if not calls:
            raise ValueError(f"a kernel before the first call: {row[place][:100]}")
        numbers = {name: _number(value, unit) for name, unit, value in zip(header, units, row, strict=True)}
        calls[-1].append(_kernel(_short(row[place]), numbers))
    return calls


def _short(name: str) -> str:
    """Return ``scale`` for ``void mlloss::cuda::scale<...>(...)``."""
    found = re.search(r"mlloss::cuda::(\w+)", name)
    return found[1] if found else name[:40]


# ---- calls ----


@dataclass
class Profiled:
    """One call, the bytes that its plan moves, and the kernels that it launched."""

    case: str
    strategy: str
    targets: str
    rows: int
    labels: int
    planned_bytes: int
    kernels: list[Kernel] = field(default_factory=list)


# Loss, strategy ("" is the planner's choice), rows, labels. Split runs in waves, and two of them show as much as all.
_LONG, _FEW = 131_073, 2_812_281
_CALLS = (
    ("zlpr", "team", 1_024, _LONG),
    ("dice", "team", 1_024, _LONG),
    ("focal", "", 1_024, _LONG),
    ("bce", "", 1_024, _LONG),
    ("zlpr", "split", 160, _LONG),
    ("dice", "split", 160, _LONG),
    ("zlpr", "split", 6, _FEW),
)


def _run_calls(dry: bool, path: Path) -> None:
    import torch

    from ..implementations import Problem, all_cases
    from .device import Device
    from .strategies import forced, strategies

    device = Device(dry)
    cases = {case.name: case for case in all_cases()}
    found = []
    for name, wanted, rows, labels in _CALLS:
        rows, labels = (4, 1_001) if dry else (rows, labels)
        case = cases[name]
        plans = strategies(labels, rows, "bfloat16", case.element_wise, "step", device, "csr", triton=False)
        plan = next((plan for plan in plans if plan.name == wanted), None if wanted else plans[0])
        if plan is None:
            print(f"{name}: no plan is {wanted} for {shape_of(rows, labels)}")
            continue
        problem = Problem(rows, labels, torch.bfloat16, device.type, labels)
        sizes = 2 * problem.nbytes + (plan.reads - 1) * problem.nbytes + plan.reads * problem.target_bytes["csr"]
        with forced(plan):
            case.fused(problem.leaf, problem.csr)  # loads the kernels before the profiler's range
            device.synchronize()
            with device.watched():
                case.fused(problem.leaf, problem.csr)
                device.synchronize()
        found.append(asdict(Profiled(name, plan.name, "csr", rows, labels, sizes)))
        path.write_text(json.dumps(found) + "\n")
        del problem
        device.give_back()


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}%"


def _row(call: Profiled, kernel: Kernel, first: bool) -> tuple[str, ...]:
    moved = sum(k.dram_bytes or 0 for k in call.kernels)
    return (
        f"{call.case}, {call.strategy}, {shape_of(call.rows, call.labels)}" if first else "",
        kernel.name,
        "" if kernel.seconds is None else f"{kernel.seconds * 1e6:.1f}",
        "" if kernel.dram_bytes is None else f"{kernel.dram_bytes / 2**20:.1f}",
        f"{moved / call.planned_bytes:.2f}" if first and moved else "",
        _percent(kernel.dram_percent),
        _percent(kernel.compute_percent),
        _percent(kernel.issue_percent),
        _percent(kernel.occupancy_percent),
        "" if kernel.registers is None else f"{kernel.registers:.0f}",
        kernel.stall,
    )


def table(calls: Sequence[Profiled]) -> str:
    """Return a line for each kernel: the bytes that it moved beside the plan's, and what limited it."""
    from ..markdown import table as lines

    head = (
        *("call", "kernel", "µs", "DRAM MiB", "of the plan", "memory", "compute", "issue", "occupancy"),
        "registers",
        "stall",
    )
    rows = [_row(call, kernel, i == 0) for call in calls for i, kernel in enumerate(call.kernels)]
    note = "ncu empties the caches before each kernel: what split reads again from L2 is read from memory here."
    return f"{lines(head, rows, padded=True)}\n{note}"


def joined(calls: list[dict[str, Any]], text: str) -> list[Profiled]:
    """Return the calls with their kernels.

    Raises:
        ValueError: ncu saw a number of calls that differs from those made.
    """
    measured = read(text)
    if len(measured) != len(calls):
        raise ValueError(f"{len(calls)} calls were made, and ncu saw {len(measured)}")
    return [Profiled(**{**call, "kernels": kernels}) for call, kernels in zip(calls, measured, strict=True)]


# ---- the part ----


def _command(dry: bool, path: Path) -> list[str]:
    program = [sys.executable, "-m", "bench.gpu.profile", "--json", str(path), *(["--dry-run"] if dry else [])]
    if dry:
        return program
    return [
        *("ncu", "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"),
        *("--profile-from-start", "off", "--target-processes", "application-only"),
        *("--kernel-name-base", "demangled", "--kernel-name", f"regex:mlloss|{_MARK}"),
        *(part for section in _SECTIONS for part in ("--section", section)),
        *("--metrics", ",".join((*_DRAM, *_FIGURES.values())), *program),
    ]


def profile(dry: bool, seconds: float, path: Path) -> Part:
    """Make the calls under ncu and print the table; in a dry run, make them without ncu and print a stored sample's."""
    if not dry and shutil.which("ncu") is None:
        return Part("profile", False, "ncu is not on the PATH", 0.0)
    made = path.with_suffix(".calls")
    made.unlink(missing_ok=True)
    ended = Started("profile", _command(dry, made), seconds, {}, grace=10.0).wait()
    calls = json.loads(made.read_text()) if made.exists() else []
    made.unlink(missing_ok=True)
    text = _SAMPLE.read_text() if dry else ended.log.read_text(errors="replace")
    try:
        found = joined(calls[: len(read(text))] if dry else calls, text)
    except ValueError as error:
        print(ended.tail())
        return Part("profile", False, f"{how(ended.status)}: {error}", ended.seconds)
    print(table(found))
    results = {"calls": [asdict(call) for call in found], "note": table(found).splitlines()[-1]}
    words = f"{len(found)} calls" + ("" if ended.status == 0 else f"; {how(ended.status)}")
    return Part("profile", ended.status == 0, words, ended.seconds, results)


def main(given: list[str] | None = None) -> int:
    """Make the calls."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.profile", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="PATH", help="file for the calls")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    options = parser.parse_args(given)
    _run_calls(options.dry_run, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
