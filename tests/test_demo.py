"""The demo's parts: losses that train in turn, functions found in source files, and a time limit for torch.compile."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
import torch

from demo import corpus, measure, model
from mlloss_cuda import CSRTargets


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> model.Data:
    standard = corpus.find_package("stdlib")
    assert standard is not None
    functions, _ = corpus.load([standard], tmp_path_factory.mktemp("corpus"), max_files=60, workers=1)
    return model.prepare(functions, corpus.split(functions, 300, 100, 0), torch.device("cpu"))


def trained(data: model.Data, *names: str, seconds: float) -> list[model.Trainer]:
    trainers = [model.Trainer(model.LOSSES[name](), data, seed=3) for name in names]
    model.train_in_turn(trainers, epochs=3, seconds=seconds, seed=3)
    return trainers


def test_losses_take_the_same_steps(data: model.Data) -> None:
    for seconds in (600.0, 1e-3):
        zlpr, bce, again = trained(data, "ZLPR", "BCE", "ZLPR", seconds=seconds)
        assert zlpr.history.epochs == bce.history.epochs > 0
        assert zlpr.history.cut_short == bce.history.cut_short == (seconds < 1)
        assert zlpr.history.loss == again.history.loss, "a loss learns the same beside another loss"
        assert zlpr.history.final == again.history.final
        assert len(zlpr.history.curve) == len(bce.history.curve)


def test_formulas_compile_all_or_none() -> None:
    logits = torch.randn(4, 50).requires_grad_()
    targets = CSRTargets.from_lists([[1], [2, 3], [], [49]], 50)
    start = time.perf_counter()
    compiled = measure.compile_formulas(logits, targets, seconds=0.0)
    assert not compiled.functions
    assert "more than their 0 s" in compiled.reason
    assert compiled.seconds <= time.perf_counter() - start
    value = measure.PEERS["ZLPR"].function(logits, targets.to_dense())
    assert torch.autograd.grad(value, logits)[0].isfinite().all(), "an interrupted compilation leaves torch unchanged"


def test_functions_are_found_wherever_a_statement_may_stand(tmp_path: Path) -> None:
    source = '''
def first():
    """Says one."""
    def inner():
        """Says two."""
        return len(x)
    return lambda: inner
class A:
    try:
        @property
        async def second(self):
            """Says three."""
            return sorted(self.y)
    except ValueError:
        def third(): "Says four."; return z
    finally:
        pass
    match first:
        case 1:
            def fourth():
                """Says five."""
                return first
    def undocumented(self):
        return 1
'''
    path = tmp_path / "source.py"
    path.write_text(source)
    rows = corpus.read_file(path)
    assert rows is not None
    documented = {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node)
    }
    assert {row[0] for row in rows} == documented == {"first", "inner", "second", "third", "fourth"}
    assert next(row[3] for row in rows if row[0] == "inner") == ["len", "x"]
