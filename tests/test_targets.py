"""CSRTargets as a container: constructors, views, conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import scipy.sparse
import torch

from mlloss_cuda import CSRTargets, LinearLoss, ZLPRLoss, zlpr_loss
from mlloss_cuda.data import csr_collate
from mlloss_cuda.metrics import precision_at_k

from .inputs import random_positives, random_probabilities


@pytest.fixture
def dense(generator: torch.Generator) -> torch.Tensor:
    return random_positives(generator, (7, 30))


def test_from_lists_sorts_and_drops_duplicates() -> None:
    targets = CSRTargets.from_lists([[2, 0, 2], [], [1]], num_labels=4)
    assert targets.crow_indices.tolist() == [0, 2, 2, 3]
    assert targets.col_indices.tolist() == [0, 2, 1]
    assert len(targets) == 3
    for bad in ([[4]], [[-1]]):
        with pytest.raises(ValueError, match="col_indices"):
            CSRTargets.from_lists(bad, 4)


@pytest.mark.parametrize("mask", ([False, False, True, True], numpy.array([False, True]), [numpy.True_]), ids=repr)
def test_masks_are_not_taken_for_label_numbers(mask: Any) -> None:
    with pytest.raises(TypeError, match="^rows: expected the numbers.*from_dense"):
        CSRTargets.from_lists([mask], 4)
    with pytest.raises(TypeError, match="^rows: expected the numbers.*from_dense"):
        csr_collate([(torch.zeros(2), mask)], 4)


@pytest.mark.parametrize(
    "row", ([0, 1, 0, 1], [0, 0, 0, 0], [0.0, 1.0, 0.0, 1.0], torch.tensor([0, 1, 1, 0])), ids=repr
)
def test_rows_with_a_number_for_every_label_are_refused(row: Any) -> None:
    """Such rows can hold no distinct labels, so they are rows of a dense matrix."""
    error = TypeError if isinstance(row[0], float) else ValueError
    with pytest.raises(error, match="^rows: expected the numbers.*from_dense"):
        CSRTargets.from_lists([[2], row], 4)
    with pytest.raises(error, match="^rows: expected the numbers.*from_dense"):
        csr_collate([(torch.zeros(2), row)], 4)
    assert CSRTargets.from_lists([[1, 0]], 2).to_dense().all()


def test_mask_tensors_are_not_taken_for_label_numbers() -> None:
    with pytest.raises(TypeError, match="from_dense"):
        csr_collate([(torch.zeros(2), torch.tensor([False, True]))], 4)
    with pytest.raises(TypeError, match="from_dense"):
        CSRTargets.from_lists(torch.tensor([[False, True]]), 4)  # type: ignore[arg-type]


def test_integers_of_numpy() -> None:
    """Numbers of labels, ignored targets and k often come from NumPy."""
    targets = CSRTargets.from_lists([[0], [1, 2]], numpy.int64(3))
    assert type(targets.num_labels) is int
    logits, dense = torch.randn(2, 3), torch.tensor([[1, 0, -1], [0, 1, 0]])
    loss = zlpr_loss(logits, dense, ignore_index=numpy.int32(-1))
    assert torch.equal(loss, zlpr_loss(logits, dense, ignore_index=-1))
    head, inputs = LinearLoss(4, 3, ZLPRLoss()), torch.randn(2, 4)
    assert torch.equal(head.topk(inputs, numpy.int64(2)).indices, head.topk(inputs, 2).indices)
    best = logits.topk(2).indices
    assert torch.equal(precision_at_k(best, targets, numpy.int64(2)), precision_at_k(best, targets, 2))
    with pytest.raises(TypeError, match="^num_labels: expected an int, got bool"):
        CSRTargets.from_lists([[0]], numpy.True_)


def test_from_empty_lists() -> None:
    assert CSRTargets.from_lists([], 4).to_dense().shape == (0, 4)
    assert CSRTargets.from_lists([[], []], 0).to_dense().shape == (2, 0)


def test_from_padded(dense: torch.Tensor) -> None:
    width = int(dense.sum(1).max())
    padded = torch.full((7, width + 2), -1)
    for row in range(7):
        labels = dense[row].nonzero().flatten()
        labels = labels[torch.randperm(len(labels))]
        padded[row, : len(labels)] = labels
    padded[3, -1] = padded[3, 0]
    assert torch.equal(CSRTargets.from_padded(padded, 30).to_dense(), dense)
    with pytest.raises(ValueError, match="indices"):
        CSRTargets.from_padded(torch.tensor([[30]]), 30)
    with pytest.raises(TypeError, match="indices"):
        CSRTargets.from_padded(torch.tensor([30]), 30)


def test_from_dense(dense: torch.Tensor, generator: torch.Generator) -> None:
    for dtype in (torch.bool, torch.uint8, torch.int64):
        targets = CSRTargets.from_dense(dense.to(dtype))
        assert targets.values is None
        assert torch.equal(targets.to_dense(), dense)
    unknown = dense.int()
    unknown[0, 0] = -1
    unknown[1, 1] = 5
    expected = unknown.clamp(max=1).float()
    assert torch.equal(CSRTargets.from_dense(unknown).to_dense(), expected)
    soft = random_probabilities(generator, (7, 30))
    assert torch.equal(CSRTargets.from_dense(soft).to_dense(), soft)
    assert len(CSRTargets.from_dense(torch.ones(2, 3, 4))) == 6


@pytest.mark.parametrize("kind", ("csr", "coo", "csc", "lil"))
def test_from_scipy(dense: torch.Tensor, kind: str) -> None:
    matrix = scipy.sparse.csr_matrix(dense.numpy().astype(numpy.float32)).asformat(kind)
    targets = CSRTargets.from_scipy(matrix)
    assert targets.values is None
    assert torch.equal(targets.to_dense(), dense)
    counts = scipy.sparse.coo_matrix((numpy.ones(4), ([0, 0, 0, 1], [1, 1, 2, 0])), (2, 3))
    assert CSRTargets.from_scipy(counts).to_dense().tolist() == [[False, True, True], [True, False, False]]
    for dtype in (numpy.int8, numpy.uint8, numpy.bool_):
        many = scipy.sparse.coo_matrix((numpy.full(4, 64, dtype), ([0, 0, 0, 0], [1, 1, 1, 1])), (1, 3))
        assert CSRTargets.from_scipy(many).to_dense().tolist() == [[False, True, False]]
    with pytest.raises(TypeError, match="matrix"):
        CSRTargets.from_scipy([[1]])
    half = CSRTargets.from_scipy(matrix * 0.5)
    assert torch.equal(half.to_dense(), dense.float() * 0.5)


def test_from_sparse(dense: torch.Tensor) -> None:
    for values in (dense.float(), dense.long() * 3):
        targets = CSRTargets.from_sparse(values.to_sparse_csr())
        assert torch.equal(targets.to_dense(), dense.float())
    with pytest.raises(TypeError, match="tensor"):
        CSRTargets.from_sparse(dense)


@pytest.mark.parametrize("weighted", (False, True))
def test_rows_and_labels(generator: torch.Generator, weighted: bool) -> None:
    dense = random_probabilities(generator, (7, 30)) if weighted else random_positives(generator, (7, 30))
    targets = CSRTargets.from_dense(dense)
    index = torch.tensor([5, 0, 0, 3])
    mask = torch.tensor([True, False, True, False, False, False, True])
    for rows in (index, mask, slice(1, 6, 2), [4, 2], []):
        assert torch.equal(targets[rows].to_dense(), dense[rows])
    assert torch.equal(targets[2].to_dense(), dense[2:3])
    for row in (-1, numpy.int64(-1), torch.tensor(-1)):
        assert torch.equal(targets[row].to_dense(), dense[-1:])
    for start, stop in ((0, 30), (5, 17), (30, 30), (0, 0)):
        assert torch.equal(targets.label_range(start, stop).to_dense(), dense[:, start:stop])
    for bad in (7, -8):
        with pytest.raises(IndexError):
            targets[bad]
    with pytest.raises(ValueError, match="start, stop"):
        targets.label_range(5, 31)


def test_padding_is_not_read(dense: torch.Tensor) -> None:
    targets = CSRTargets.from_dense(dense)
    used = targets.col_indices.shape[0]
    padded = targets.pad_to(used + 10)
    assert padded.col_indices.shape[0] == used + 10
    assert torch.equal(padded.to_dense(), dense)
    assert torch.equal(padded[2:4].to_dense(), dense[2:4])
    assert torch.equal(padded.label_range(3, 9).to_dense(), dense[:, 3:9])
    with pytest.raises(ValueError, match="capacity"):
        targets.pad_to(used - 1)


def test_saves_and_loads(dense: torch.Tensor, tmp_path: Path) -> None:
    torch.save(CSRTargets.from_dense(dense), tmp_path / "targets.pt")
    assert torch.equal(torch.load(tmp_path / "targets.pt").to_dense(), dense)


def test_moves_without_validation(dense: torch.Tensor) -> None:
    targets = CSRTargets.from_dense(dense)
    assert targets.to("meta").device.type == "meta"
    assert "rows=7" in repr(targets)
    assert CSRTargets(torch.tensor([0, 2]), torch.tensor([1, 1]), 3, validate=False).num_labels == 3


def test_works_in_a_data_loader(dense: torch.Tensor) -> None:
    targets = CSRTargets.from_dense(dense)
    loader = torch.utils.data.DataLoader(
        torch.arange(7), batch_size=3, collate_fn=lambda rows: targets[torch.stack(rows)]
    )
    assert torch.equal(torch.cat([batch.to_dense() for batch in loader]), dense)
