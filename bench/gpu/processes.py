"""Processes with a time limit whose output goes to a log, and the outcome of a part of ``make gpu``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

__all__ = [
    "LOGS",
    "ROOT",
    "TIMED_OUT",
    "Ended",
    "Part",
    "Started",
    "clear",
    "end_all",
    "environment_with",
    "how",
    "keep_logs",
    "verdict_of",
]

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "gpu"
TIMED_OUT = 124


@dataclass
class Part:
    """The outcome of a part: right, wrong, or None if it is unknown; in words; and the rest of its JSON."""

    name: str
    right: bool | None
    words: str
    seconds: float
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A process that has ended, by itself or at its time limit."""

    status: int
    log: Path
    seconds: float

    def tail(self, lines: int = 25) -> str:
        """Return the last lines that it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def environment_with(**more: str) -> dict[str, str]:
    """Return this process's environment, changed to import the repository's package before an installed one."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


class Started:
    """A process whose output goes to a log, and which is interrupted ``grace`` seconds before its time is over."""

    running: ClassVar[list[Started]] = []

    def __init__(
        self, name: str, command: Sequence[str], seconds: float, environment: dict[str, str], grace: float = 5.0
    ) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log, self.start = LOGS / f"{name}.log", time.monotonic()
        self.grace = min(grace, seconds / 4)
        self.limit = seconds - self.grace
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment_with(**environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(self)

    def wait(self) -> Ended:
        """Wait until it ends or its time is over."""
        try:
            status = self.process.wait(max(1.0, self.start + self.limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
            self._interrupt()
        finally:
            self.end()
        return Ended(status, self.log, time.monotonic() - self.start)

    def _interrupt(self) -> None:
        """Interrupt as from a keyboard: pytest then reports the tests so far."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)

    def end(self) -> None:
        """End it and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.running.remove(self)


def end_all() -> None:
    """End the processes that still run: a process with a session of its own outlives this one."""
    for started in list(Started.running):
        started.end()


def clear() -> None:
    """Remove the logs of an earlier run."""
    shutil.rmtree(LOGS, ignore_errors=True)


def keep_logs(folder: Path) -> None:
    """Write the logs and reports of every part into one file."""
    with tarfile.open(folder / "logs.tar.gz", "w:gz") as archive:
        if LOGS.exists():
            archive.add(LOGS, "logs")


def how(status: int) -> str:
    """Return an exit status in words."""
    return "out of time" if status == TIMED_OUT else f"exit status {status}"


def verdict_of(verdicts: Sequence[bool | None]) -> bool | None:
    """Return wrong if any verdict is; otherwise unknown if any is."""
    return False if False in verdicts else None if None in verdicts else True
