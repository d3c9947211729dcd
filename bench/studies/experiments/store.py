"""Results as lines of JSON, one a run: what is there is not run again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...report import about

__all__ = ["KEY", "RESULTS", "Store", "read"]

RESULTS = Path(__file__).resolve().parents[2] / "results" / "experiments.jsonl"
KEY = ("part", "set", "loss", "seed", "rate", "tuning")  # what a run is

Record = dict[str, Any]


class Store:
    """Appends to a file; an interrupted program leaves whole lines, and goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = list(read(path)) if path.exists() else []
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:  # after a line that was cut off
                file.write("\n")
        found = about(0, False)
        machine, versions = found["machine"], found["versions"]
        self.origin = {
            "date": found["date"][:10],
            "cpu": f"{machine['cpu']} ({machine['capability']}), {machine['threads']} thread",
            "torch": versions["torch"],
            "mlloss_cuda": versions["mlloss_cuda"],
            "python": versions["python"],
            "commit": found["commit"][:12] + (" (modified)" if found["modified"] else ""),
        }

    def find(self, run: Mapping[str, Any]) -> Record | None:
        """The record of a run, if it has been made."""
        return next((each for each in self.records if all(each.get(name) == run.get(name) for name in KEY)), None)

    def add(self, run: Mapping[str, Any], found: Mapping[str, Any]) -> Record:
        """Write a run down."""
        record = {**{name: run[name] for name in KEY if name in run}, **found, "from": self.origin}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        return record


def read(path: Path) -> Iterator[Record]:
    """Every whole line; one that was cut off is run again."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
