"""Metrics compared with torchmetrics, scikit-learn and pyxclib, and average precision with its definition."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets
from mlloss_cuda.metrics import (
    average_precision,
    coverage_error,
    f1_score,
    fbeta_score,
    hamming_loss,
    ndcg_at_k,
    precision_at_k,
    propensity_scored_ndcg_at_k,
    propensity_scored_precision_at_k,
    propensity_scored_recall_at_k,
    ranking_loss,
    recall_at_k,
    subset_accuracy,
)

from . import restated
from .packages import classification, retrieval, sklearn_metrics
from .tally import Tally

ROWS, LABELS = 40, 9
CLOSE = {"rtol": 2e-6, "atol": 1e-7}


@pytest.fixture
def logits(generator: torch.Generator) -> Tensor:
    """Large logits, many of whose sigmoids are equal."""
    return 30 * torch.randn(ROWS, LABELS, generator=generator)


@pytest.fixture
def targets(generator: torch.Generator) -> Tensor:
    y = torch.rand(ROWS, LABELS, generator=generator) < 0.25
    y[0], y[1], y[:, 2] = False, True, False
    return y


def silent(function: Any, *given: Any, **arguments: Any) -> Any:
    """Call a function without scikit-learn's warnings about labels that have no positives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*given, **arguments)


@pytest.mark.parametrize("k", (1, 3, LABELS))
def test_at_k(logits: Tensor, targets: Tensor, k: int, tally: Tally) -> None:
    indices = logits.topk(LABELS).indices
    scores = logits - logits.min() + 1  # torchmetrics takes scores of 0 or less as not predicted
    for ours, theirs in (
        (precision_at_k, retrieval.retrieval_precision),
        (recall_at_k, retrieval.retrieval_recall),
        (ndcg_at_k, retrieval.retrieval_normalized_dcg),
    ):
        expected = torch.stack([theirs(x, y, top_k=k) for x, y in zip(scores, targets, strict=True)]).mean()
        tally.equal("torchmetrics", ours(indices, CSRTargets.from_dense(targets), k), expected, **CLOSE)


@pytest.mark.parametrize("k", (1, 2, 3, 5))
def test_at_k_equals_pyxclib(logits: Tensor, targets: Tensor, k: int, generator: torch.Generator, tally: Tally) -> None:
    """pyxclib's formulas from sparse scores. Some rows have fewer than k scores."""
    kept = torch.rand(ROWS, LABELS, generator=generator) < 0.6
    ranked = logits.masked_fill(~kept, -torch.inf).argsort(1, descending=True)
    found = [[i for i in row if kept[n, i]] for n, row in enumerate(ranked.tolist())]
    scores = scipy.sparse.csr_matrix(torch.where(kept, logits, 0.0).numpy())
    weight = 1 + 5 * torch.rand(LABELS, generator=generator, dtype=torch.float64)
    y = targets.double()
    for ours, theirs in (
        (precision_at_k, restated.precision),
        (recall_at_k, restated.recall),
        (ndcg_at_k, restated.ndcg),
    ):
        tally.equal("pyxclib", ours(scores, targets, k), theirs(found, y, k), **CLOSE)
    for scored, theirs_scored in (
        (propensity_scored_precision_at_k, restated.psprecision),
        (propensity_scored_recall_at_k, restated.psrecall),
    ):
        tally.equal("pyxclib", scored(scores, targets, weight, k), theirs_scored(found, y, weight, k), **CLOSE)
    ours_ps = propensity_scored_ndcg_at_k(scores, targets, weight, k).item()
    theirs_ps = restated.psndcg(found, y, weight, k)
    if k == 1:
        tally.equal("pyxclib", ours_ps, theirs_ps, **CLOSE)
    else:
        tally.documented("pyxclib", abs(ours_ps - theirs_ps) > 1e-6, "PSnDCG as the paper sums it")


@pytest.mark.parametrize("average", ("samples", "macro", "micro", "weighted", None))
@pytest.mark.parametrize("weighed", (False, True))
def test_fbeta_equals_scikit_learn(
    logits: Tensor, targets: Tensor, average: str | None, weighed: bool, generator: torch.Generator, tally: Tally
) -> None:
    predicted = logits > 10
    predicted[0], predicted[:, 2] = False, False
    w = torch.rand(ROWS, generator=generator, dtype=torch.float64) if weighed else None
    given = None if w is None else w.numpy()
    for beta, nothing in ((1.0, 0.0), (0.5, 1.0), (2.0, math.nan)):
        expected = sklearn_metrics.fbeta_score(
            targets.numpy(), predicted.numpy(), beta=beta, average=average, zero_division=nothing, sample_weight=given
        )
        got = fbeta_score(predicted, targets, beta, average, zero_division=nothing, sample_weight=w)
        tally.equal("scikit-learn", got, torch.as_tensor(expected), **CLOSE)


def test_other_metrics_equal_scikit_learn(
    logits: Tensor, targets: Tensor, generator: torch.Generator, tally: Tally
) -> None:
    predicted, y = logits > 10, targets.numpy()
    for w in (None, torch.rand(ROWS, generator=generator, dtype=torch.float64)):
        given = {"sample_weight": None if w is None else w.numpy()}
        own = {"sample_weight": w}
        for ours, theirs in ((ranking_loss, "label_ranking_loss"), (coverage_error, "coverage_error")):
            for x in (logits, logits.sign()):
                expected = getattr(sklearn_metrics, theirs)(y, x.numpy(), **given)
                tally.equal("scikit-learn", ours(x, targets, **own), float(expected), **CLOSE)
        expected = sklearn_metrics.hamming_loss(y, predicted.numpy(), **given)
        tally.equal("scikit-learn", hamming_loss(predicted, targets, **own), float(expected), **CLOSE)
        expected = sklearn_metrics.accuracy_score(y, predicted.numpy(), **given)
        tally.equal("scikit-learn", subset_accuracy(predicted, targets, **own), float(expected), **CLOSE)
        for average in ("macro", "micro", "weighted", None):
            expected = silent(sklearn_metrics.average_precision_score, y, logits.numpy(), average=average, **given)
            got = average_precision(logits, targets, average, zero_division=0.0, **own)
            tally.equal("scikit-learn", got, torch.as_tensor(np.asarray(expected)), **CLOSE)
        expected = sklearn_metrics.label_ranking_average_precision_score(y, logits.numpy(), **given)
        tally.equal("scikit-learn", average_precision(logits, targets, "samples", **own), float(expected), **CLOSE)


def test_labels_without_positives(tally: Tally) -> None:
    """Labels without positives are left out of the mean; scikit-learn and torchmetrics count them as 0."""
    x, y = torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[1, 0], [0, 0]])
    theirs = silent(sklearn_metrics.average_precision_score, y.numpy(), x.numpy(), average="macro")
    assert theirs == 0.5
    tally.documented("scikit-learn", average_precision(x, y).item() == 1.0, "labels without positives are left out")
    tally.equal("scikit-learn", average_precision(x, y, zero_division=0.0), theirs, **CLOSE)
    theirs = silent(classification.multilabel_average_precision, x, y, 2, average="macro")
    tally.equal("torchmetrics", average_precision(x, y, zero_division=0.0), theirs, **CLOSE)
    theirs = silent(classification.multilabel_average_precision, x, y * 0, 2, average="micro")
    tally.documented("torchmetrics", theirs.item() == 0, "without positives micro is NaN, where theirs is -0.0")
    for average in ("macro", "micro", "weighted"):
        assert average_precision(x, y * 0, average).isnan()
    assert average_precision(x, y * 0, None).isnan().all()
    assert average_precision(x, y, None).tolist() == pytest.approx([1.0, math.nan], nan_ok=True)
    assert average_precision(x[:0], y[:0], "samples").isnan()


def test_sets(logits: Tensor, targets: Tensor, tally: Tally) -> None:
    predicted, y = (logits > 10) | targets, targets.long()
    predicted[10:20] = targets[10:20]
    sparse = CSRTargets.from_dense(predicted), CSRTargets.from_dense(targets)
    for average in ("macro", "micro", "weighted", "none"):
        given = {"num_labels": LABELS, "average": average}
        expected = classification.multilabel_f1_score(predicted.long(), y, **given)
        tally.equal("torchmetrics", f1_score(*sparse, average), expected, **CLOSE)
        expected = classification.multilabel_fbeta_score(predicted.long(), y, 2.0, **given)
        tally.equal("torchmetrics", fbeta_score(*sparse, 2.0, average), expected, **CLOSE)
    expected = classification.multilabel_hamming_distance(predicted.long(), y, LABELS, average="micro")
    tally.equal("torchmetrics", hamming_loss(*sparse), expected, **CLOSE)
    expected = classification.multilabel_f1_score(
        predicted.long()[..., None], y[..., None], LABELS, average="micro", multidim_average="samplewise"
    )
    tally.equal("torchmetrics", f1_score(*sparse, "samples"), expected.mean(), **CLOSE)
    expected = classification.multilabel_exact_match(predicted.long(), y, LABELS)
    tally.equal("torchmetrics", subset_accuracy(*sparse), expected, **CLOSE)


def test_rankings(logits: Tensor, targets: Tensor, tally: Tally) -> None:
    """torchmetrics depends on the order of equal scores, so these are distinct."""
    scores = torch.arange(logits.numel())[logits.flatten().argsort().argsort()].view_as(logits) / logits.numel()
    expected = classification.multilabel_ranking_loss(scores, targets.long(), LABELS)
    tally.equal("torchmetrics", ranking_loss(logits, targets), expected, **CLOSE)
    expected = classification.multilabel_coverage_error(scores, targets.long(), LABELS)
    tally.equal("torchmetrics", coverage_error(logits, targets), expected, **CLOSE)
    equal = torch.full_like(logits, 0.5)
    theirs = classification.multilabel_ranking_loss(equal, targets.long(), LABELS)
    ours = ranking_loss(equal, targets)
    tally.documented("torchmetrics", bool(ours > theirs), "equal logits are the wrong way round")


def precision_of(x: Tensor, y: Tensor) -> float:
    """Return the mean over the positives of the precision down to each."""
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
        average_precision(logits, targets, "binary")
    with pytest.raises(ValueError, match="zero_division: expected a finite number"):
        average_precision(logits, targets, zero_division=2.0)
