"""Run the programs of tests/emulator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_program(folder: Path, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program; standard output and errors are captured together, in order."""
    return subprocess.run(
        [folder.resolve() / name, *words],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    folder: Path = request.config.getoption("--races")
    return lambda name, *words, **environment: run_program(folder, name, *words, **environment)
