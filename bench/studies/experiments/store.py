"""Results as lines of JSON, one for each run; a run whose line exists is not repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...about import about

__all__ = ["KEY", "RESULTS", "Store", "read"]

RESULTS = Path(__file__).resolve().parents[2] / "results" / "experiments.jsonl"
KEY = ("part", "set", "loss", "seed", "rate", "tuning")  # the identity of a run

Record = dict[str, Any]


class Store:
    """A file that results are appended to; after an interruption the program goes on with the next run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = list(read(path)) if path.exists() else []
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:  # ends a line that was cut off
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
        """Return the record of a run, if there is one."""
        return next((each for each in self.records if all(each.get(name) == run.get(name) for name in KEY)), None)

    def add(self, run: Mapping[str, Any], found: Mapping[str, Any]) -> Record:
        """Append the record of a run."""
        record = {**{name: run[name] for name in KEY if name in run}, **found, "from": self.origin}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        return record


def read(path: Path) -> Iterator[Record]:
    """Yield every whole line; the run of a line that was cut off is repeated."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
