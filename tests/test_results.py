"""Figures in the README and in docs/experiments.md come from bench/results, and only from real runs."""

from __future__ import annotations

import json
from pathlib import Path

from bench import readme
from bench.studies.experiments import report, store

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def test_readme_agrees_with_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.rendered(text) == text, "run make report"


def test_no_dry_run_among_the_results() -> None:
    for path in RESULTS.glob("*.json"):
        assert not json.loads(path.read_text()).get("dry_run"), f"{path.name}: a dry run's figures mean nothing"


def test_readme_has_no_gpu_figures_without_a_gpu() -> None:
    assert readme.gpu_block([]).startswith("No GPU figures yet")


def test_experiments_agree_with_the_results() -> None:
    text = report.PAGE.read_text()
    assert report.rendered(text, list(store.read(store.RESULTS))) == text, "python -m bench.studies.experiments report"
    pictures = {path.name for path in (report.PAGE.parent / "images" / "experiments").iterdir()}
    assert all(f"(images/experiments/{name})" in text for name in pictures)
