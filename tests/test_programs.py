"""The programs beside the library, at their smallest: `python -m demo` and `python -m bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )


def test_demo_smoke(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    done = run("demo", "--smoke", "--output", str(plot))
    assert done.returncode == 0, done.stderr
    for word in ("ZLPR", "focal", "Dice", "BCE", "precision at"):
        assert word in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_demo_refuses_bad_flags() -> None:
    done = run("demo", "--minutes", "soon")
    assert done.returncode == 2
    assert "--minutes" in done.stderr


def test_bench_quick(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run("bench", "--quick", "--json", str(results))
    assert done.returncode == 0, done.stderr
    assert json.loads(results.read_text())
