"""The summary of several parts: its counts, and that later parts run after one fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .run import Part, summary

ROOT = Path(__file__).parent.parent
MAKEFILE = """
good:
\t@echo "SKIPPED [2] tests/test_a.py:3: no /proc here"
\t@echo "=== 5 passed, 2 skipped in 1.20s ==="
bad:
\t@echo "1 failed, 3 passed, 1 error in 61.00s (0:01:01)"
\t@exit 1
absent:
\t@echo "skipped: no nvcc was found"
plain:
\t@echo "nothing about tests"
"""


def read(*lines: str) -> Part:
    part = Part("some")
    for line in lines:
        part.read(line)
    return part


def test_closing_lines_of_pytest() -> None:
    coloured = read("\x1b[32m\x1b[1m11 passed\x1b[0m, \x1b[33m2 skipped\x1b[0m\x1b[32m in 3.21s\x1b[0m")
    assert coloured.counts == {"passed": 11, "skipped": 2}
    assert read("2 failed, 1 passed, 3 errors in 1.0s").counts == {"failed": 5, "passed": 1}
    assert read("1 xfailed, 1 xpassed in 1.0s").counts == {"skipped": 1, "failed": 1}
    assert not read("no tests ran in 0.1s", "built 3 files in 2 s", "it passed in silence").counts
    assert read("3 passed in 1s", "4 passed in 1s").counts == {"passed": 7}, "counts of runs add up"


def test_a_part_without_tests_counts_as_one() -> None:
    part = Part("plain", status=2)
    assert summary("some", [part])[-1] == "0 passed, 1 failed, 0 skipped"
    assert summary("some", [read("skipped: no nvcc was found")])[-1] == "0 passed, 0 failed, 1 skipped"


def test_later_parts_run_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    command = [sys.executable, "-m", "tests.run", "some", "good", "bad", "absent", "plain"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    table = {words[0]: words[1:5] for words in lines if len(words) == 6}
    assert table["good"] == ["passed", "5", "0", "2"]
    assert table["bad"] == ["FAILED", "3", "2", "0"]
    assert table["absent"] == ["skipped", "-", "-", "-"]
    assert table["plain"] == ["passed", "-", "-", "-"]
    assert "skipped 2: no /proc here" in done.stdout
    assert "FAILED: bad" in done.stdout
    assert done.stdout.splitlines()[-1] == "9 passed, 2 failed, 3 skipped"
