"""Pages and pictures agree with bench/results; two results are compared."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import commits, compare, figures, measure, page, plots, publish
from bench.check import check_gradient, truth
from bench.implementations import Problem, all_cases

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"

Results = dict[str, Any]


def test_pages_agree_with_the_results() -> None:
    for path, text in publish.texts().items():
        assert path.read_text() == text, f"{path.name}: run make report"


def test_pictures_agree_with_the_results(tmp_path: Path) -> None:
    """The bytes are equal with the pinned version of matplotlib."""
    matplotlib = pytest.importorskip("matplotlib")
    if f'"matplotlib=={matplotlib.__version__}"' not in (ROOT / "pyproject.toml").read_text():
        pytest.skip("another matplotlib draws other bytes")
    plots.draw(figures.committed(), tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in plots.FOLDER.iterdir()}, "make report"
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert set(re.findall(r"\(images/bench/(.+?)\)", text)) == set(drawn)


def test_the_page_has_no_gpu_figures_without_a_gpu() -> None:
    assert page.rendered([]).endswith("have not run on a GPU (`make gpu`).\n")


# ---- checks before timing -------------------------------------------------------------------------


def test_two_commits_turn_by_turn() -> None:
    """Both commits are this tree, at a shape that takes no time."""
    here = Path(commits.__file__).parents[1]
    what = {"case": "zlpr", "rows": 2, "labels": 64, "dtype": "float32", "name": "csr", "threads": 1}
    found = commits.compared((here, here), processes=1, rounds=2, **what)
    assert all(number > 0 for number in found)


def test_a_gradient_that_jumps_may_be_on_either_side() -> None:
    problem = Problem(4, 1_000, torch.float32, "cpu", 0)
    case = next(case for case in all_cases() if case.name == "margin_bce")
    _, expected = truth(case, problem)
    some = expected.nonzero()[:9].T
    for count, passes in ((1, True), (2, True), (9, False)):
        found = expected.clone()
        found[some[0, :count], some[1, :count]] = 0.0
        with nullcontext() if passes else pytest.raises(AssertionError, match="gradient: 9 of 4000 differ"):
            check_gradient(found, problem, expected, jumps=True)
        with pytest.raises(AssertionError, match=f"gradient: {count} of 4000 differ"):
            check_gradient(found, problem, expected)
    found[some[0, 0], some[1, 0]] = 3 * expected.abs().max()
    with pytest.raises(AssertionError, match="gradient"):
        check_gradient(found, problem, expected, jumps=True)


# ---- python -m bench compare ---------------------------------------------------------------------


def scale(results: Results, factor: Callable[[str, Results], float]) -> None:
    """Multiply each implementation's times."""
    for entry in results["times"]:
        for name, summary in entry["summary"].items():
            summary["median_ms"] *= factor(name, summary)
            if "of_the_floor" in summary:
                del summary["of_the_floor"]  # is computed again from the times


def quietly(results: Results) -> None:
    """Give all figures one spread, so that the tests do not depend on how quiet the published run was."""
    for entry in results["times"]:
        entry["others"] = 0.0
        for summary in entry["summary"].values():
            summary["spread"] = 0.08


def slow_ours(results: Results) -> None:
    scale(results, lambda name, summary: 2.0 if name == "fused" else 1.0)


def slow_peers(results: Results) -> None:
    scale(results, lambda name, summary: 1.0 if name in ("fused", "csr", "inplace", "floating") else 2.0)


def within_spreads(results: Results) -> None:
    scale(results, lambda name, summary: 1 + max(0.04, 1.3 * summary["spread"]))


def beyond_spreads(results: Results) -> None:
    scale(results, lambda name, summary: 1 + max(0.06, 1.5 * summary["spread"]))


def all_a_little(results: Results) -> None:
    """Make ours slower within the spread of nearly every figure."""
    scale(results, lambda name, summary: 1.08 if name in ("fused", "csr", "inplace", "floating") else 1.0)


def without_zlpr(results: Results) -> None:
    results["times"] = [entry for entry in results["times"] if entry["case"] != "zlpr"]


def without_memory(results: Results) -> None:
    results["memory"] = []


def fewer_threads(results: Results) -> None:
    results["machine"]["threads"] = 1


def on_a_busy_machine(results: Results) -> None:
    slow_ours(results)
    for entry in results["times"]:
        entry["others"] = 0.5


def fresh_memory(results: Results) -> None:
    for row in results["memory"]:
        row["peak"] += row["competitor"] == "inplace"


def other_machine(results: Results) -> None:
    """Make everything half as fast, on another machine."""
    results["machine"]["cpu"] = "another"
    scale(results, lambda name, summary: 2.0)


@pytest.mark.parametrize(
    "change,flags,status,said",
    (
        (lambda results: None, (), 0, "0 of ours slower, 0 faster"),
        (slow_ours, (), 1, "slower"),
        (slow_peers, (), 0, "0 of ours slower"),
        (slow_peers, ("--peers",), 0, "reference, eager"),
        (within_spreads, (), 0, "0 of ours slower"),
        (beyond_spreads, (), 1, "slower"),
        (on_a_busy_machine, (), 0, "measure again"),
        (fresh_memory, (), 1, "more memory"),
        (all_a_little, (), 1, "slower all together: 1.08 times"),
        (without_zlpr, (), 1, "gone: zlpr: mlloss_cuda, CSR, 64 x 131,072, float32"),
        (without_memory, (), 1, "gone: all of memory"),
        (fewer_threads, (), 2, "2 cores, 1 threads"),
        (other_machine, (), 2, "two machines"),
        (other_machine, ("--of-the-floor",), 0, "0 of ours slower"),
    ),
)
def test_compare(
    change: Callable[[Results], None],
    flags: tuple[str, ...],
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = json.loads((RESULTS / "cpu.json").read_text())
    quietly(before)
    after = copy.deepcopy(before)
    change(after)
    for name, results in (("before", before), ("after", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    assert compare.main([str(tmp_path / "before.json"), str(tmp_path / "after.json"), *flags]) == status
    assert said in "".join(capsys.readouterr())


def test_compare_refuses_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]")
    assert compare.main([str(path), str(RESULTS / "cpu.json")]) == 2
    assert "expected results of" in capsys.readouterr().err


@pytest.mark.parametrize("kept", (False, True))
def test_a_run_that_meets_new_memory_is_repeated(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """The repetition follows a touch of memory, and there is none if freed memory goes back to the system."""
    events: list[str] = []
    faults = iter([0, 5000, 5000, 5003])
    monkeypatch.setattr(measure, "_page_faults", lambda: next(faults))
    monkeypatch.setattr(measure, "touch_memory", lambda nbytes: events.append(f"touch {nbytes}") or kept)
    implementation: Any = SimpleNamespace(in_place=False, run=lambda logits, problem: events.append("run"))
    problem: Any = SimpleNamespace(nbytes=10, fresh=lambda in_place: None)
    _, counted = measure.clocked(implementation, problem)
    assert events == ["run", "touch 40", *["run"] * kept]
    assert counted == (3 if kept else 5000)
