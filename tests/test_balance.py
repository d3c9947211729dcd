"""Weights and biases from counts, compared with the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import BCEWithLogitsLoss, CSRTargets, ZLPRLoss, _counts, fit_thresholds, label_weights, prior_bias


def examples(generator: torch.Generator) -> Tensor:
    """Return dense 0/1 targets in which label 0 never occurs, and label 1 always does."""
    y = (torch.rand(50, 6, generator=generator) < torch.tensor([0, 0, 0.3, 0.1, 0.5, 0.05])).long()
    y[:, 1] = 1
    return y


def formula(method: str, n: int, rows: int) -> float:
    if method == "propensity":
        c = (math.log(rows) - 1) * (1.5 + 1) ** 0.55
        return 1 + c * math.exp(-0.55 * math.log(n + 1.5))
    n = max(n, 1)
    return 1 / n if method == "inverse" else (1 - 0.99) / (1 - 0.99**n)


@pytest.mark.parametrize("method", ["inverse", "effective", "propensity"])
class TestLabelWeights:
    def test_formula(self, method: str, generator: torch.Generator) -> None:
        y = examples(generator)
        expected = torch.tensor([formula(method, n, 50) for n in y.sum(0).tolist()])
        got = label_weights(y, method, beta=0.99, normalize=False)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(label_weights(y, method, beta=0.99), expected / expected.mean())

    def test_forms_of_targets(self, method: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        y = examples(generator)
        wanted = label_weights(y, method)
        csr = CSRTargets.from_dense(y)
        for form in (y.bool(), y.double(), y * 3, csr, csr.pad_to(400), y.reshape(5, 10, 6), y.float().to_sparse_csr()):
            torch.testing.assert_close(label_weights(form, method), wanted)
        monkeypatch.setattr(_counts, "CHUNK", 13)
        torch.testing.assert_close(label_weights(y, method), wanted)

    def test_serves_as_weight(self, method: str, generator: torch.Generator) -> None:
        y = examples(generator)
        weights = label_weights(y, method)
        assert weights.isfinite().all()
        assert (weights > 0).all()
        assert ZLPRLoss(weight=weights)(torch.randn(50, 6), y).isfinite()

    def test_no_rows(self, method: str) -> None:
        assert label_weights(torch.zeros(0, 3), method).tolist() == [1.0, 1.0, 1.0]


def test_effective_lies_between(generator: torch.Generator) -> None:
    y = examples(generator)
    torch.testing.assert_close(label_weights(y, beta=0.0), torch.ones(6))
    torch.testing.assert_close(label_weights(y, beta=1 - 1e-9), label_weights(y, "inverse"))


class TestPriorBias:
    def test_formula(self, generator: torch.Generator) -> None:
        y = examples(generator)
        n = y.sum(0).double()
        expected = torch.log((n + 0.5) / (50 - n + 0.5)).float()
        torch.testing.assert_close(prior_bias(y), expected)
        torch.testing.assert_close(prior_bias(CSRTargets.from_dense(y)), expected)
        assert expected.isfinite().all()

    def test_best_constant_of_bce(self, generator: torch.Generator) -> None:
        y = examples(generator)
        bias = prior_bias(y, smoothing=1e-6).double().requires_grad_()
        (gradient,) = torch.autograd.grad(BCEWithLogitsLoss()(bias.expand(50, 6), y), bias)
        assert gradient.abs().max() < 1e-6

    def test_unknown_labels_do_not_count(self, generator: torch.Generator) -> None:
        y = examples(generator)
        unknown = torch.rand(50, 6, generator=generator) < 0.3
        y[unknown] = -1
        n, rows = (y > 0).sum(0).double(), (y >= 0).sum(0).double()
        expected = torch.log((n + 2) / (rows - n + 2)).float()
        torch.testing.assert_close(prior_bias(y, smoothing=2, ignore_index=-1), expected)
        torch.testing.assert_close(prior_bias(CSRTargets.from_dense(y), smoothing=2), expected)

    def test_probabilities_add_up(self, generator: torch.Generator) -> None:
        y = torch.rand(20, 4, generator=generator)
        expected = torch.log((y.double().sum(0) + 0.5) / (20 - y.double().sum(0) + 0.5)).float()
        torch.testing.assert_close(prior_bias(y), expected)
        torch.testing.assert_close(prior_bias(CSRTargets.from_dense(y)), expected)


@pytest.mark.parametrize("function", [label_weights, prior_bias])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"targets": [[1, 0]]}, TypeError, "targets: expected"),
        ({"targets": torch.tensor(1)}, ValueError, "targets: expected shape"),
        ({"targets": torch.tensor([[1, -1]])}, ValueError, "targets: expected 0, 1 or probabilities"),
        ({"targets": torch.tensor([[1, torch.nan]])}, ValueError, "targets: expected 0, 1 or probabilities"),
        ({"ignore_index": 0}, ValueError, "ignore_index"),
    ],
)
def test_bad_targets(function: Any, change: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        function(**{"targets": torch.tensor([[1, 0]]), **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "sqrt"}, "method: expected one of"),
        ({"beta": 1.0}, "beta: expected"),
        ({"a": 0.0}, "a: expected"),
        ({"b": -1.0}, "b: expected"),
    ],
)
def test_bad_options(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        label_weights(torch.tensor([[1, 0]]), **change)
    with pytest.raises(ValueError, match="smoothing: expected"):
        prior_bias(torch.tensor([[1, 0]]), smoothing=0.0)


@pytest.mark.parametrize("sparse", (False, True))
def test_nan_marks_unknown_labels(sparse: bool) -> None:
    y = torch.tensor([[1.0, 0.0, math.nan], [math.nan, 1.0, 0.0], [1.0, 1.0, 1.0]])
    marked = torch.where(y.isnan(), -1.0, y)
    given, other = (CSRTargets.from_dense(x) if sparse else x for x in (y, marked))
    expected = prior_bias(other, ignore_index=-1)
    torch.testing.assert_close(prior_bias(given, ignore_index=math.nan), expected)
    torch.testing.assert_close(label_weights(given, ignore_index=math.nan), label_weights(other, ignore_index=-1))
    logits = torch.tensor([[0.3, -1.0, 2.0], [5.0, 0.1, -0.2], [0.0, 1.0, -3.0]])
    for average in ("macro", "micro", "samples"):
        found = fit_thresholds(logits, given, average=average, ignore_index=math.nan)
        torch.testing.assert_close(found, fit_thresholds(logits, other, average=average, ignore_index=-1))
    with pytest.raises(ValueError, match="NaN that are not ignore_index"):
        prior_bias(given, ignore_index=-1)
