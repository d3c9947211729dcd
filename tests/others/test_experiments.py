"""The experiments at their smallest, on made-up data: run, resumed and reported. They need torchmetrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.studies.experiments import __main__, imbalance, report, store, study, training

from . import packages  # noqa: F401 - makes torchvision importable for torchmetrics


@pytest.fixture
def arff(tmp_path: Path, generator: torch.Generator) -> Path:
    """An ARFF file whose labels follow from the features."""
    x = torch.randn(400, 6, generator=generator)
    y = (x[:, :3] > 1.4).int()
    lines = ["@relation r", *(f"@attribute x{i} numeric" for i in range(6))]
    lines += [*(f"@attribute l{i} {{0,1}}" for i in range(3)), "@data"]
    lines += [",".join([*map(str, a), *map(str, b)]) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    path = tmp_path / "made.arff"
    path.write_text("\n".join(lines))
    names = "".join(f"<label name='l{i}'/>" for i in range(3))
    path.with_suffix(".xml").write_text(f"<labels>{names}</labels>")
    return path


def test_runs_and_resumes(arff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (study, imbalance):
        monkeypatch.setattr(module, "RATES", (1e-2,))
    monkeypatch.setattr(study, "EPOCHS", (1, 2))
    monkeypatch.setattr(imbalance, "EPOCHS", 2)
    results = tmp_path / "results.jsonl"
    given = ["--results", str(results), f"made={arff}+{arff}"]
    threads = torch.get_num_threads()
    try:
        for part in ("losses", "imbalance"):
            assert __main__.main([part, *given]) == 0
        first = results.read_text()
        # Only the run whose line was cut off is run again.
        results.write_text(first[:-20])
        assert __main__.main(["losses", *given]) == __main__.main(["imbalance", *given]) == 0
    finally:
        torch.set_num_threads(threads)
    records = list(store.read(results))
    runs = [tuple(each[name] for name in store.KEY) for each in records]
    assert len(set(runs)) == len(runs) == len(training.LOSSES) * 6 + 3 * 6 * 6
    assert {json.dumps(each, sort_keys=True) for each in map(json.loads, first.splitlines()[:-1])} <= {
        json.dumps(each, sort_keys=True) for each in records
    }
    text = report.table(report.reported(records, "losses"), "made")
    assert text.count("\n") == 2 * len(training.LOSSES) + 4
    assert "made, l" in report.imbalance(records)


def test_parts_are_disjoint(arff: Path) -> None:
    """No row is in two of the training, validation and test parts."""
    task = study.split("made", study.load([arff], None))
    rows = [tuple(row.tolist()) for part in (task.train, task.valid, task.test) for row in part.x]
    assert len(set(rows)) == len(rows) == 400
    torch.testing.assert_close(task.train.x.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
