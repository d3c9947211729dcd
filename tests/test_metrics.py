"""Metrics at k, of sets, and of whole rankings, compared with hand-worked values and with their definitions."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import numpy
import pytest
import scipy.sparse
import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, _counts, label_weights
from mlloss_cuda.metrics import (
    PROPENSITY,
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

from .new_process import run_python

ROWS, LABELS, WIDTH = 23, 17, 6
Sets = list[set[int]]


@pytest.fixture
def targets(generator: torch.Generator) -> Tensor:
    """Some rows have no labels, some labels no rows, and some rows more labels than are predicted."""
    y = torch.rand(ROWS, LABELS, generator=generator) < torch.rand(ROWS, 1, generator=generator) * 0.6
    y[0], y[-1], y[:, 3] = False, False, False
    y[1] = True
    return y


@pytest.fixture
def indices(generator: torch.Generator) -> Tensor:
    """Predictions in which some rows are padded with -1, and one has nothing else."""
    chosen = torch.rand(ROWS, LABELS, generator=generator).topk(WIDTH).indices
    chosen[2, 4:], chosen[5] = -1, -1
    return chosen


def sets(y: Tensor) -> Sets:
    return [set(row.nonzero()[:, 0].tolist()) for row in y]


def forms(y: Tensor) -> list[Any]:
    """Return the same positives as CSR, CSR with values, sparse_csr, and dense."""
    csr = CSRTargets.from_dense(y)
    soft = torch.where(y, 0.75, 0.25)
    sparse = torch.sparse_csr_tensor(
        csr.crow_indices, csr.col_indices, torch.ones(len(csr.col_indices)), y.shape, check_invariants=False
    )
    longer = csr.pad_to(len(csr.col_indices) + 5)
    narrow = CSRTargets(csr.crow_indices.int(), csr.col_indices.int(), csr.num_labels)
    return [csr, longer, narrow, CSRTargets.from_dense(soft), sparse, y, y.int(), soft]


class TestAtK:
    def test_by_hand(self) -> None:
        """The first row has two of three labels right, the second none of one, the third has no positives."""
        y = CSRTargets.from_lists([[1, 2, 4], [0], []], num_labels=5)
        found = torch.tensor([[4, 0, 1], [3, 2, -1], [0, 1, 2]])
        assert precision_at_k(found, y, (1, 2, 3)).tolist() == pytest.approx([1 / 3, 1 / 6, 2 / 9])
        log3 = 1 / math.log2(3)
        assert ndcg_at_k(found, y, (1, 2, 3)).tolist() == pytest.approx(
            [1 / 3, 1 / (1 + log3) / 3, 1.5 / (1.5 + log3) / 3]
        )
        weights = torch.tensor([10.0, 2.0, 3.0, 100.0, 1.0])
        # The best weights are 3, 2, 1 in the first row and 10 in the second.
        got = propensity_scored_precision_at_k(found, y, weights, (1, 2, 3))
        assert got.tolist() == pytest.approx([1 / 13, 1 / 15, 3 / 16])
        got = propensity_scored_ndcg_at_k(found, y, weights, (1, 2, 3))
        assert got.tolist() == pytest.approx([1 / 13, 1 / (13 + 2 * log3), 2 / (13 + 2 * log3 + 0.5)])
        assert recall_at_k(found, y, (1, 2, 3)).tolist() == pytest.approx([1 / 9, 1 / 9, 2 / 9])
        # Each row's weights are divided by its number of positives, 3 and 1.
        got = propensity_scored_recall_at_k(found, y, weights, (1, 2, 3))
        assert got.tolist() == pytest.approx([(1 / 3) / 11, (1 / 3) / (10 + 5 / 3), 1 / 12])

    def test_definitions(self, targets: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        weights = 1 + 5 * torch.rand(LABELS, generator=generator, dtype=torch.float64)
        rows, found = sets(targets), indices.tolist()
        gain = [1 / math.log2(2 + i) for i in range(WIDTH)]
        for k in range(1, WIDTH + 1):
            hits = [[label in row for label in top[:k]] for row, top in zip(rows, found, strict=True)]
            precision = sum(sum(hit) / k for hit in hits) / ROWS
            ndcg = sum(
                sum(g for g, h in zip(gain, hit, strict=False) if h) / (sum(gain[: min(k, len(row))]) or 1)
                for hit, row in zip(hits, rows, strict=True)
            )
            best = [sorted((weights[label].item() for label in row), reverse=True)[:k] for row in rows]
            taken = [
                [weights[label].item() if label in row else 0.0 for label in top[:k]]
                for row, top in zip(rows, found, strict=True)
            ]
            scored = sum(map(sum, taken)) / sum(map(sum, best))
            discounted = [sum(w * g for row in side for w, g in zip(row, gain, strict=False)) for side in (taken, best)]
            for y in forms(targets):
                assert precision_at_k(indices, y, k).item() == pytest.approx(precision, rel=1e-6)
                assert ndcg_at_k(indices, y, k).item() == pytest.approx(ndcg / ROWS, rel=1e-6)
                assert propensity_scored_precision_at_k(indices, y, weights, k).item() == pytest.approx(scored)
                got = propensity_scored_ndcg_at_k(indices.int(), y, weights.float(), k)
                assert got.item() == pytest.approx(discounted[0] / discounted[1])

    def test_sparse_scores(self, targets: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Sparse scores of any form are ranked by score and then by label, and give the same as indices."""
        scores = torch.zeros(ROWS, LABELS)
        for row, labels in enumerate(indices.tolist()):
            for rank, label in enumerate(labels):
                if label >= 0:
                    scores[row, label] = -1.0 - rank // 2  # pairs of equal scores
        equal = indices.reshape(ROWS, -1, 2).masked_fill(indices.reshape(ROWS, -1, 2) < 0, LABELS).sort(2).values
        ranked = equal.reshape(ROWS, WIDTH).masked_fill(equal.reshape(ROWS, WIDTH) == LABELS, -1)
        csr = CSRTargets.from_dense(scores.bool())
        values = scores[scores != 0]
        sparse = torch.sparse_csr_tensor(
            csr.crow_indices, csr.col_indices, values, scores.shape, check_invariants=False
        )
        matrix = scipy.sparse.csr_matrix(scores.numpy())
        weights = 1 + torch.rand(LABELS, generator=generator)
        ks = (1, 3, WIDTH)
        for given in (sparse, matrix, matrix.tocoo(), scipy.sparse.csr_array(matrix)):
            assert torch.equal(precision_at_k(given, targets, ks), precision_at_k(ranked, targets, ks))
            got = propensity_scored_recall_at_k(given, targets, weights, ks)
            assert torch.equal(got, propensity_scored_recall_at_k(ranked, targets, weights, ks))
        # Duplicates of int8 are added up without overflow: label 0 has a score of 128, and label 1 has 2.
        votes = scipy.sparse.coo_matrix((numpy.array([64, 64, 2], numpy.int8), ([0, 0, 0], [0, 0, 1])), (1, LABELS))
        assert precision_at_k(votes, CSRTargets.from_lists([[0]], LABELS), 1) == 1
        # With k above the number of predictions, no label counts as right that was not predicted.
        assert recall_at_k(sparse, targets, LABELS) == recall_at_k(ranked, targets, WIDTH)
        with pytest.raises(ValueError, match=f"k: expected 1 to {LABELS}"):
            recall_at_k(sparse, targets, LABELS + 1)
        with pytest.raises(
            ValueError, match=f"indices: expected {ROWS} rows and {LABELS} labels, as targets, got 2 and 3"
        ):
            recall_at_k(scipy.sparse.csr_array((2, 3)), targets, 1)
        with pytest.raises(ValueError, match="indices: expected scores without NaN"):
            recall_at_k(matrix * math.nan, targets, 1)

    def test_exclude(self, targets: Tensor, indices: Tensor, generator: torch.Generator) -> None:
        """Later labels move up in place of excluded ones; the positives stay the same."""
        out = torch.rand(ROWS, LABELS, generator=generator) < 0.3
        rows = [[i for i in row if i >= 0 and not out[n, i]] for n, row in enumerate(indices.tolist())]
        kept = torch.tensor([[*row, *[-1] * (WIDTH - len(row))] for row in rows])
        scores = torch.rand(ROWS, LABELS, generator=generator)
        for metric in (precision_at_k, recall_at_k, ndcg_at_k):
            for exclude in (out, CSRTargets.from_dense(out)):
                assert torch.equal(metric(indices, targets, 2, exclude=exclude), metric(kept, targets, 2))
            best = scores.masked_fill(out, -1).topk(4).indices
            got = metric(scipy.sparse.csr_array(scores.numpy()), targets, 4, exclude=out)
            assert torch.equal(got, metric(best, targets, 4))
        with pytest.raises(
            ValueError, match=r"exclude: expected \(23, 17\) rows and labels, as targets, got \(1, 17\)"
        ):
            recall_at_k(indices, targets, 1, exclude=out[:1])

    def test_sample_weight(self, targets: Tensor, indices: Tensor) -> None:
        """A row with an integer weight counts as often as that."""
        count = torch.arange(ROWS) % 3
        rows = torch.arange(ROWS).repeat_interleave(count)
        weights = 1 + torch.arange(LABELS).double()
        many, few = (indices[rows], targets[rows]), (indices, targets)
        for metric in (precision_at_k, recall_at_k, ndcg_at_k):
            torch.testing.assert_close(metric(*few, (1, 4), sample_weight=count), metric(*many, (1, 4)))
        for scored in (propensity_scored_precision_at_k, propensity_scored_ndcg_at_k, propensity_scored_recall_at_k):
            torch.testing.assert_close(scored(*few, weights, 4, sample_weight=count), scored(*many, weights, 4))
        p = targets ^ (torch.arange(ROWS * LABELS).reshape(ROWS, LABELS) % 7 == 0)
        for of_sets in (subset_accuracy, hamming_loss, *(partial(f1_score, average=a) for a in ALL_AVERAGES)):
            torch.testing.assert_close(of_sets(p, targets, sample_weight=count), of_sets(p[rows], targets[rows]))
        logits = torch.arange(ROWS * LABELS).reshape(ROWS, LABELS).double().sin()
        for ranked in (ranking_loss, coverage_error):
            got = ranked(logits, targets, sample_weight=count.reshape(ROWS))
            torch.testing.assert_close(got, ranked(logits[rows], targets[rows]))
        for wrong, message in (
            (count[1:], r"sample_weight: expected shape \(23,\)"),
            (-count, "sample_weight: expected"),
        ):
            with pytest.raises(ValueError, match=message):
                precision_at_k(*few, 1, sample_weight=wrong)

    def test_best_ranking_scores_one(self, targets: Tensor) -> None:
        weights = label_weights(CSRTargets.from_dense(targets), "propensity", normalize=False, **PROPENSITY["amazon"])
        best = torch.where(targets, weights, 0).topk(LABELS).indices
        counts = list(range(1, LABELS + 1))
        for metric in (propensity_scored_precision_at_k, propensity_scored_ndcg_at_k):
            torch.testing.assert_close(metric(best, targets, weights, counts), torch.ones(LABELS))
        torch.testing.assert_close(ndcg_at_k(best, targets, counts), targets.any(1).float().mean().expand(LABELS))

    def test_propensities(self) -> None:
        """The constants are those of the papers, and weights follow xclib's compute_inv_propesity, worked by hand."""
        assert {name: tuple(each.values()) for name, each in PROPENSITY.items()} == {
            "default": (0.55, 1.5),
            "amazon": (0.6, 2.6),
            "wikipedia": (0.5, 0.4),
        }
        y = CSRTargets.from_lists([[0], [0, 1], *([[]] * 98)], num_labels=3)
        c = (math.log(100) - 1) * 1.4**0.5
        got = label_weights(y, "propensity", normalize=False, **PROPENSITY["wikipedia"])
        assert got.tolist() == pytest.approx([1 + c * (n + 0.4) ** -0.5 for n in (2, 1, 0)])

    def test_many_labels(self) -> None:
        """No tensor of rows x labels is made, which would take terabytes."""
        labels = 2**31 - 1
        y = CSRTargets.from_lists([[labels - 1, 0]] * 1000, num_labels=labels)
        found = torch.tensor([[labels - 1, 7, 0]]).expand(1000, -1)
        assert precision_at_k(found, y, 3).item() == pytest.approx(2 / 3)

    def test_no_rows_or_positives(self) -> None:
        none = CSRTargets.from_lists([], num_labels=3)
        assert precision_at_k(torch.zeros(0, 2, dtype=torch.int64), none, 1).isnan()
        y = CSRTargets.from_lists([[]], num_labels=3)
        assert ndcg_at_k(torch.tensor([[1, 2]]), y, 2) == 0
        assert propensity_scored_precision_at_k(torch.tensor([[1, 2]]), y, torch.ones(3), 2).isnan()

    def test_unknown_labels_are_not_hits(self) -> None:
        y = CSRTargets(torch.tensor([0, 2]), torch.tensor([0, 1]), 3, torch.tensor([-1.0, 1.0]))
        assert precision_at_k(torch.tensor([[0, 1]]), y, (1, 2)).tolist() == [0, 0.5]

    @pytest.mark.parametrize(
        "given,error,message",
        (
            ({"indices": [[1]]}, TypeError, "indices: expected an int32 or int64 tensor"),
            ({"indices": torch.zeros(2, 2)}, TypeError, r"indices: expected an int32 .* scores\.topk\(k\)\.indices"),
            ({"indices": torch.tensor([1, 2])}, ValueError, r"indices: expected shape \[rows, K\]"),
            ({"indices": torch.tensor([[1, 2]])}, ValueError, "indices: expected 2 rows, as targets, got 1"),
            ({"indices": torch.tensor([[0, 1], [3, 0]])}, ValueError, r"indices: expected labels in \[0, 3\)"),
            ({"indices": torch.tensor([[0, 1], [-2, 0]])}, ValueError, r"indices: expected labels in \[0, 3\)"),
            ({"indices": torch.tensor([[0, 1], [2, 2]])}, ValueError, "indices: expected each label once"),
            ({"targets": [[0], [1]]}, TypeError, "targets: expected a dense tensor, a CSRTargets"),
            ({"targets": torch.tensor([[1, -1, 0]] * 2)}, ValueError, "targets: expected 0, 1"),
            ({"k": 0}, ValueError, "k: expected 1 to 2"),
            ({"k": 3}, ValueError, "k: expected 1 to 2"),
            ({"k": ()}, ValueError, "k: expected 1 to 2"),
            ({"k": 1.0}, TypeError, "k: expected an int"),
            ({"k": True}, TypeError, "k: expected an int"),
            ({"inverse_propensity": torch.ones(2)}, ValueError, r"inverse_propensity: expected shape \(3,\)"),
            ({"inverse_propensity": torch.tensor([1, -1.0, 1])}, ValueError, "inverse_propensity: expected finite"),
            ({"inverse_propensity": torch.ones(3).int()}, TypeError, "inverse_propensity: expected a floating"),
            ({"inverse_propensity": [1.0] * 3}, TypeError, "inverse_propensity: expected a tensor"),
        ),
    )
    def test_bad_input(self, given: dict[str, Any], error: type[Exception], message: str) -> None:
        arguments = {
            "indices": torch.tensor([[0, 1], [2, 0]]),
            "targets": CSRTargets.from_lists([[0], [1]], num_labels=3),
            "inverse_propensity": torch.ones(3),
            "k": 2,
        }
        for metric in (propensity_scored_precision_at_k, propensity_scored_ndcg_at_k):
            with pytest.raises(error, match=message):
                metric(**{**arguments, **given})
        if "inverse_propensity" in given:
            return
        del arguments["inverse_propensity"]
        for metric in (precision_at_k, ndcg_at_k):
            with pytest.raises(error, match=message):
                metric(**{**arguments, **given})


ALL_AVERAGES = ("samples", "macro", "micro", "weighted", None)


def f1(true: int, predicted: int, positive: int, nothing: float) -> float:
    return 2 * true / (predicted + positive) if predicted + positive else nothing


def by_definition(p: Sets, y: Sets, average: str, nothing: float) -> float:
    if average == "macro":
        p, y = ([{i for i, row in enumerate(side) if label in row} for label in range(LABELS)] for side in (p, y))
    if average == "micro":
        return f1(sum(len(a & b) for a, b in zip(p, y, strict=True)), sum(map(len, p)), sum(map(len, y)), nothing)
    values = [f1(len(a & b), len(a), len(b), nothing) for a, b in zip(p, y, strict=True)]
    return sum(values) / len(values)


class TestSets:
    def predicted(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Return mostly right predictions: some rows are entirely right, and some are empty."""
        p = targets ^ (torch.rand(ROWS, LABELS, generator=generator) < 0.1)
        p[7:12], p[0], p[:, 3] = targets[7:12], False, False
        p[2] = False
        return p

    @pytest.mark.parametrize("average", ("samples", "macro", "micro"))
    @pytest.mark.parametrize("nothing", (0.0, 1.0))
    def test_definitions(self, targets: Tensor, generator: torch.Generator, average: str, nothing: float) -> None:
        p = self.predicted(targets, generator)
        expected = by_definition(sets(p), sets(targets), average, nothing)
        exact = sum(a == b for a, b in zip(sets(p), sets(targets), strict=True)) / ROWS
        assert 0 < exact < 1
        pairs = [(forms(p)[0], y) for y in forms(targets)] + [(given, targets) for given in forms(p)]
        for given, y in pairs:
            got = f1_score(given, y, average, zero_division=nothing)
            assert got.item() == pytest.approx(expected, rel=1e-6)
            assert subset_accuracy(given, y).item() == pytest.approx(exact, rel=1e-6)

    @pytest.mark.parametrize("beta", (0.0, 0.5, 2.0))
    def test_fbeta(self, targets: Tensor, generator: torch.Generator, beta: float) -> None:
        """F-scores from precision and recall of each label; weighted by positives; labels without any are left out."""
        targets[:, 3] = False
        p = self.predicted(targets, generator)
        right, given, true = ((a.sum(0).double()) for a in (p & targets, p, targets))
        assert ((given == 0) & (true == 0)).any()
        precision, recall = right / given, right / true
        score = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
        score = torch.where((given + true > 0) & (right == 0), 0.0, score)  # 0 / 0 in precision, recall or their mean
        score = torch.where(given + beta**2 * true > 0, score, torch.nan)
        for y in (targets, CSRTargets.from_dense(targets)):
            for nothing in (0.0, 1.0, math.nan):
                expected = score.nan_to_num(nothing) if nothing == nothing else score
                got = fbeta_score(p, y, beta, None, zero_division=nothing)
                torch.testing.assert_close(got, expected.float(), equal_nan=True)
                macro = fbeta_score(p, y, beta, zero_division=nothing)
                assert macro.item() == pytest.approx(expected.nanmean().item())
            weighted = fbeta_score(p, y, beta, "weighted").item()
            assert weighted == pytest.approx(((score.nan_to_num(0) * true).sum() / true.sum()).item())

    def test_hamming(self, targets: Tensor, generator: torch.Generator) -> None:
        p = self.predicted(targets, generator)
        assert hamming_loss(p, CSRTargets.from_dense(targets)).item() == pytest.approx(
            (p ^ targets).double().mean().item()
        )
        unknown = torch.rand(ROWS, LABELS, generator=generator) < 0.3
        y = targets.int().masked_fill(unknown, -1)
        wanted = ((p ^ targets) & ~unknown).sum() / (~unknown).sum()
        assert hamming_loss(p, y, ignore_index=-1).item() == pytest.approx(wanted.item())
        assert hamming_loss(p[:, :0], targets[:, :0]).isnan()

    def test_logits_instead_of_decisions_raise(self) -> None:
        y = torch.tensor([[1, 0]])
        for logits in (torch.tensor([[2.0, -1.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[torch.nan, 0.0]])):
            for metric in (subset_accuracy, hamming_loss, f1_score, lambda p, y: fbeta_score(p, y, 2.0)):
                with pytest.raises(ValueError, match=r"predicted: expected 0, 1 .* for logits pass logits > 0"):
                    metric(logits, y)

    def test_chunks_of_dense_targets(self, targets: Tensor, generator: torch.Generator, monkeypatch: Any) -> None:
        p = self.predicted(targets, generator)
        expected = [f1_score(p, targets), subset_accuracy(p, targets)]
        monkeypatch.setattr(_counts, "CHUNK", 3 * LABELS + 1)
        assert [f1_score(p, targets), subset_accuracy(p, targets)] == expected

    def test_unknown_labels(self, targets: Tensor, generator: torch.Generator) -> None:
        """Unknown labels count as neither predicted nor positive."""
        p = self.predicted(targets, generator)
        unknown = torch.rand(ROWS, LABELS, generator=generator) < 0.3
        y = targets.int().masked_fill(unknown, -1)
        csr = CSRTargets.from_dense(y)
        assert csr.values is not None
        for metric in (subset_accuracy, *(lambda *a, v=v, **b: f1_score(*a, v, **b) for v in ("macro", "samples"))):
            expected = metric(p & ~unknown, targets & ~unknown)
            assert metric(p, csr) == expected
            assert metric(CSRTargets.from_dense(p), y, ignore_index=-1) == expected
            marked = targets.float().masked_fill(unknown, torch.nan)
            values = csr.values.masked_fill(csr.values < 0, torch.nan)
            for nan in (marked, CSRTargets(csr.crow_indices, csr.col_indices, LABELS, values)):
                assert metric(p, nan, ignore_index=float("nan")) == expected
                with pytest.raises(ValueError, match="NaN that are not ignore_index"):
                    metric(p, nan)
        assert f1_score(p, csr) != f1_score(p, targets)

    def test_leading_dimensions(self, targets: Tensor) -> None:
        y = targets[:22].reshape(2, 11, LABELS)
        assert subset_accuracy(y, CSRTargets.from_dense(y)) == 1
        assert f1_score(y, y, "micro") == 1

    def test_no_rows(self) -> None:
        none = torch.zeros(0, 3, dtype=torch.bool)
        assert subset_accuracy(none, none).isnan()
        assert f1_score(none, none, "samples").isnan()
        assert f1_score(none, none, "macro") == 0

    def test_many_labels(self) -> None:
        labels = 2**31 - 1
        y = CSRTargets.from_lists([[labels - 1, 0]] * 1000, num_labels=labels)
        p = CSRTargets.from_lists([[labels - 1]] * 1000, num_labels=labels)
        assert f1_score(p, y, "micro").item() == pytest.approx(2 / 3)
        assert subset_accuracy(y, y) == 1

    def test_bad_input(self) -> None:
        y = torch.ones(2, 3, dtype=torch.bool)
        for metric in (subset_accuracy, f1_score):
            with pytest.raises(TypeError, match="predicted: expected a dense tensor, a CSRTargets or .*list"):
                metric([[1]], y)
            with pytest.raises(TypeError, match="targets: expected a dense tensor, a CSRTargets or .*list"):
                metric(y, [[1]])
            with pytest.raises(ValueError, match="predicted: expected 0, 1 or probabilities"):
                metric(-y.int(), y)
            with pytest.raises(TypeError, match="predicted: expected a bool, integer or floating dtype"):
                metric(y.to(torch.complex64), y)
            with pytest.raises(ValueError, match=r"predicted: expected targets' shape \(2, 3\), got \(3, 2\)"):
                metric(y.t(), y)
            with pytest.raises(ValueError, match=r"predicted: expected \(2, 3\) rows and labels, as targets"):
                metric(CSRTargets.from_lists([[0]], 3), y)
            with pytest.raises(ValueError, match="targets: expected 0, 1"):
                metric(y, y.int() - 1 - y.int())
        with pytest.raises(ValueError, match="average: expected one of"):
            f1_score(y, y, "binary")
        with pytest.raises(ValueError, match=r"zero_division: expected a finite number in \[0, 1\]"):
            f1_score(y, y, zero_division=2.0)
        with pytest.raises(ValueError, match="beta: expected a finite number"):
            fbeta_score(y, y, -1.0)


def test_ranking_loss(generator: torch.Generator, targets: Tensor) -> None:
    """The loss counts pairs; a pair of equal logits, also infinite ones, counts as wrong."""
    drawn = torch.randint(-2, 3, (ROWS, LABELS), generator=generator).float()
    for logits in (torch.randn(ROWS, LABELS, generator=generator), drawn, drawn / (drawn.abs() < 2), drawn * 0):
        logits = logits.nan_to_num(0.0, torch.inf, -torch.inf)
        rows = [(x[y][:, None], x[~y][None]) for x, y in zip(logits, targets, strict=True)]
        wrong = [(p <= n).double().mean().item() if p.numel() and n.numel() else 0.0 for p, n in rows]
        for y in (targets, CSRTargets.from_dense(targets), torch.where(targets, 0.8, 0.1)):
            assert ranking_loss(logits, y).item() == pytest.approx(sum(wrong) / ROWS, rel=1e-6)
    assert ranking_loss(torch.zeros(2, 0), torch.zeros(2, 0)) == 0


def test_coverage_error(generator: torch.Generator, targets: Tensor) -> None:
    """The error counts ranks down to the last positive; equal logits count together; a row without positives is 0."""
    for logits in (
        torch.randn(ROWS, LABELS, generator=generator),
        torch.randint(3, (ROWS, LABELS), generator=generator),
    ):
        x = logits.double()
        wanted = [(row >= row[y].min()).sum().item() if y.any() else 0 for row, y in zip(x, targets, strict=True)]
        for y in (targets, CSRTargets.from_dense(targets)):
            assert coverage_error(x, y).item() == pytest.approx(sum(wanted) / ROWS)
    assert coverage_error(torch.zeros(0, 2), torch.zeros(0, 2)).isnan()
    assert coverage_error(torch.zeros(2, 0), torch.zeros(2, 0)) == 0


@pytest.mark.parametrize("metric", (ranking_loss, coverage_error))
def test_rankings_of_sparse_values(metric: Any) -> None:
    """NaN and negative values are refused; entries beyond the last row's are not read."""
    logits, crow = torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([0, 1])
    unused = CSRTargets(crow, torch.tensor([1, 0]), 3, torch.tensor([1.0, -1.0]))
    assert metric(logits, unused) == metric(logits, torch.tensor([[0, 1, 0]]))
    for value in (math.nan, -1.0):
        with pytest.raises(ValueError, match="^targets: expected"):
            metric(logits, CSRTargets(crow, torch.tensor([1]), 3, torch.tensor([value])))


def test_missing_packages_raise(monkeypatch: Any) -> None:
    """tests/others tests the values of average precision."""
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ImportError, match=r'needs torchmetrics: pip install "mlloss-cuda\[metrics\]"'):
        average_precision(torch.zeros(1, 2), torch.zeros(1, 2))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="needs scikit-learn: pip install scikit-learn"):
        average_precision(torch.zeros(1, 2), torch.ones(1, 2), sample_weight=torch.ones(1))


def test_is_not_imported_with_the_package() -> None:
    code = (
        "import sys, mlloss_cuda; print({'mlloss_cuda.metrics'} & sys.modules.keys())\n"
        "import mlloss_cuda.metrics; print({'torchmetrics', 'scipy', 'sklearn'} & sys.modules.keys())"
    )
    done = run_python("-c", code)
    assert done.stdout.split("\n")[:2] == ["set()", "set()"], done.stderr
