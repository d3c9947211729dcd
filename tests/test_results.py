"""Figures in the README come from bench/results, and from real runs only."""

from __future__ import annotations

import json
from pathlib import Path

from bench import readme

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def test_readme_agrees_with_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.rendered(text) == text, "make report draws the README's tables anew"


def test_no_dry_run_among_the_results() -> None:
    for path in RESULTS.glob("*.json"):
        assert not json.loads(path.read_text()).get("dry_run"), f"{path.name}: a dry run's figures are of no meaning"


def test_readme_has_no_gpu_figures_without_a_gpu() -> None:
    assert readme.gpu_block([]).startswith("No GPU figures yet")
