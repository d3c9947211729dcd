"""Metrics against torchmetrics', and those that are torchmetrics' own, by their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets
from mlloss_cuda.metrics import average_precision, f1_score, ndcg_at_k, precision_at_k, ranking_loss, subset_accuracy

from .packages import classification, retrieval

ROWS, LABELS = 40, 9


@pytest.fixture
def logits(generator: torch.Generator) -> Tensor:
    """Large ones, whose sigmoids are equal."""
    return 30 * torch.randn(ROWS, LABELS, generator=generator)


@pytest.fixture
def targets(generator: torch.Generator) -> Tensor:
    y = torch.rand(ROWS, LABELS, generator=generator) < 0.25
    y[0], y[1], y[:, 2] = False, True, False
    return y


@pytest.mark.parametrize("k", (1, 3, LABELS))
def test_at_k(logits: Tensor, targets: Tensor, k: int) -> None:
    indices = logits.topk(LABELS).indices
    scores = logits - logits.min() + 1  # of 0 or less they take for not predicted
    for ours, theirs in (
        (precision_at_k, retrieval.retrieval_precision),
        (ndcg_at_k, retrieval.retrieval_normalized_dcg),
    ):
        expected = torch.stack([theirs(x, y, top_k=k) for x, y in zip(scores, targets, strict=True)]).mean()
        torch.testing.assert_close(ours(indices, CSRTargets.from_dense(targets), k), expected)


def test_sets(logits: Tensor, targets: Tensor) -> None:
    predicted, y = (logits > 10) | targets, targets.long()
    predicted[10:20] = targets[10:20]
    sparse = CSRTargets.from_dense(predicted), CSRTargets.from_dense(targets)
    for average in ("macro", "micro"):
        expected = classification.multilabel_f1_score(predicted.long(), y, LABELS, average=average)
        torch.testing.assert_close(f1_score(*sparse, average), expected)
    expected = classification.multilabel_f1_score(
        predicted.long()[..., None], y[..., None], LABELS, average="micro", multidim_average="samplewise"
    )
    torch.testing.assert_close(f1_score(*sparse, "samples"), expected.mean())
    torch.testing.assert_close(
        subset_accuracy(*sparse), classification.multilabel_exact_match(predicted.long(), y, LABELS)
    )


def test_ranking_loss(logits: Tensor, targets: Tensor) -> None:
    """Theirs goes by the order of equal logits: these are distinct."""
    scores = torch.arange(logits.numel())[logits.flatten().argsort().argsort()].view_as(logits) / logits.numel()
    expected = classification.multilabel_ranking_loss(scores, targets.long(), LABELS)
    torch.testing.assert_close(ranking_loss(logits, targets), expected)


def precision_of(x: Tensor, y: Tensor) -> float:
    """Mean, over the positives, of the precision down to each."""
    order = x.argsort(descending=True)
    right = y[order].double()
    at = right.cumsum(0) / torch.arange(1, len(x) + 1)
    return (at * right).sum().item() / right.sum().item()


def test_average_precision(logits: Tensor, targets: Tensor) -> None:
    seen = [i for i in range(LABELS) if targets[:, i].any()]
    macro = sum(precision_of(logits[:, i], targets[:, i]) for i in seen) / len(seen)
    # A row without positives counts as 1, as in scikit-learn.
    rows = [precision_of(x, y) if y.any() else 1.0 for x, y in zip(logits, targets, strict=True)]
    micro = precision_of(logits.flatten(), targets.flatten())
    for y in (targets, CSRTargets.from_dense(targets)):
        assert average_precision(logits, y).item() == pytest.approx(macro, rel=1e-5)
        assert average_precision(logits, y, "micro").item() == pytest.approx(micro, rel=1e-5)
        assert average_precision(logits, y, "samples").item() == pytest.approx(sum(rows) / ROWS, rel=1e-5)
    assert average_precision(logits, torch.zeros_like(targets)).isnan()


def test_bad_input(logits: Tensor, targets: Tensor) -> None:
    for metric in (ranking_loss, average_precision):
        with pytest.raises(ValueError, match="targets: expected the logits' shape"):
            metric(logits, targets.t())
        with pytest.raises(ValueError, match="targets: expected"):
            metric(logits, targets.int() - 1)
        with pytest.raises(ValueError, match="targets: expected no unknown labels"):
            metric(logits, CSRTargets.from_dense(targets.int() - (~targets).int()))
        with pytest.raises(ValueError, match="logits: expected no NaN"):
            metric(logits / 0 * 0, targets)
    with pytest.raises(ValueError, match="average: expected one of"):
        average_precision(logits, targets, "weighted")
