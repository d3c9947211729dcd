"""Results of a CPU or a GPU as one list of figures, from which tables, pictures and comparisons are drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .implementations import LABELS, LAYOUTS, OURS
from .samples import spread

__all__ = ["Figure", "Results", "committed", "load", "of_json"]

FOLDER = Path(__file__).parent / "results"
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Figure:
    """The time of one implementation of a loss at one shape: forward + backward, unless the mode differs."""

    case: str
    dtype: str
    rows: int
    labels: int
    implementation: str
    ms: float  # median
    spread: float  # interquartile range over the median
    of_the_floor: float | None
    quiet: bool = True
    mode: str = "step"
    strategy: str = ""
    default: bool = True  # whether the planner chooses this strategy

    @property
    def ours(self) -> bool:
        """True if this package's kernels were timed."""
        return self.implementation in OURS

    @property
    def key(self) -> tuple[Any, ...]:
        """The identity of a figure, by which two results are compared."""
        return (self.case, self.dtype, self.rows, self.labels, self.implementation, self.mode, self.strategy)


@dataclass
class Results:
    """One file of results."""

    name: str  # the first part of the names of its pictures
    header: dict[str, Any]
    figures: list[Figure]
    memory: list[dict[str, Any]] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """True if a GPU was measured."""
        return "bandwidth" in self.header

    @property
    def machine(self) -> str:
        """The device that was measured."""
        machine = self.header["machine"]
        if self.on_gpu and machine["gpu"]:
            return str(machine["gpu"])
        cpu = machine["cpu"].replace("(R)", "").replace("(TM)", "")
        threads = "" if machine["threads"] == machine["cores"] else f", {machine['threads']} threads"
        return f"{cpu} ({machine['capability']}), {machine['cores']} cores{threads}"

    @property
    def provenance(self) -> str:
        """Machine, versions and commit, which stand beneath each table and picture."""
        versions, commit = self.header["versions"], (self.header["commit"] or "unknown")[:7]
        torch, package = versions["torch"], versions["mlloss_cuda"]
        modified = " (modified)" if self.header["modified"] else ""
        date = self.header["date"].split()[0]
        driver = self.header.get("gpu", {}).get("before", {}).get("driver_version")
        parts = [self.machine, *([f"driver {driver}"] if driver else []), f"torch {torch}", f"mlloss_cuda {package}"]
        return " · ".join([*parts, f"commit {commit}{modified}", date])

    def find(self, **wanted: Any) -> list[Figure]:
        """Return the figures that have these attributes."""
        return [f for f in self.figures if all(getattr(f, name) == value for name, value in wanted.items())]


def _floor(entry: dict[str, Any], name: str) -> float | None:
    """Compute ``Measured.of_the_floor`` for a result file that has no such figure."""
    if name == "copy":
        return None
    logits = entry["rows"] * entry["labels"] * _ITEM[entry["dtype"]]
    sizes = {
        "dense": entry["rows"] * entry["labels"],
        "floating": logits,
        "csr": 8 * (16 * entry["rows"] + 1),  # there are 15 positives a row
    }
    ms = {implementation: summary["median_ms"] for implementation, summary in entry["summary"].items()}
    sizes |= entry.get("target_bytes", {})
    share: float = (1 + sizes[LAYOUTS.get(name, "dense")] / (2 * logits)) * ms["copy"] / ms[name]
    return share


def _of_cpu(results: dict[str, Any]) -> Iterator[Figure]:
    for entry in results["times"]:
        shape = (entry["case"], entry["dtype"], entry["rows"], entry["labels"])
        quiet = entry["others"] is None or entry["others"] < 0.05
        for name, summary in entry["summary"].items():
            floor = summary.get("of_the_floor") or _floor(entry, name)
            yield Figure(*shape, name, summary["median_ms"], summary["spread"], floor, quiet)


def _of_gpu(results: dict[str, Any]) -> Iterator[Figure]:
    for entry in results["times"]:
        if entry["ms"]:
            shape = (entry["case"], entry["dtype"], entry["rows"], entry["labels"])
            measured = (entry["competitor"], entry["median_ms"], spread(entry["ms"]), entry["of_the_floor"])
            default = entry["default"] or not entry["strategy"]
            yield Figure(*shape, *measured, True, entry["mode"], entry["strategy"], default)


def load(path: Path) -> Results:
    """Read a file that ``python -m bench --json`` or ``make gpu`` has written.

    Raises:
        ValueError: the file is neither.
    """
    results = json.loads(path.read_text())
    if not isinstance(results, dict) or not {"machine", "versions", "times"} <= results.keys():
        raise ValueError(f"{path}: expected results of python -m bench or of make gpu")
    return of_json(results, path.stem.removesuffix("-bench"))


def of_json(results: dict[str, Any], name: str) -> Results:
    """Return the results in the JSON of such a file."""
    gpu = "bandwidth" in results
    memory = [{"rows": 64, "labels": 131_072, "dtype": "float32", **row} for row in results["memory"]]
    header = {name: value for name, value in results.items() if name not in ("times", "memory")}
    missing = {f"{LABELS[n]} ({why})" for entry in results["times"] for n, why in entry.get("unavailable", {}).items()}
    header["not_run"] = sorted(missing)
    return Results(name, header, [*(_of_gpu if gpu else _of_cpu)(results)], memory)


def committed() -> list[Results]:
    """Read all files of ``bench/results``: the CPU's, then the GPUs'."""
    return [load(path) for path in (FOLDER / "cpu.json", *sorted(FOLDER.glob("*-bench.json"))) if path.exists()]
