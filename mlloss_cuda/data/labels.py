"""Co-occurrence of labels, and label embeddings from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import CSRTargets
from . import _scipy

__all__ = ["cooccurrence", "label_embeddings"]


def cooccurrence(targets: CSRTargets) -> Any:
    r"""Count the rows in which two labels are both positive: :math:`Y^\top Y`, sparse.

    Args:
        targets: ``CSRTargets`` (or ``torch.sparse_csr``) ``[rows, L]``. Probabilities above 1/2 are positive.

    Returns:
        ``scipy.sparse.csr_array`` ``[L, L]``, int64, symmetric; its diagonal counts the positives of each label. It
        has one entry for each pair that occurs: at most the sum of the squared numbers of labels of the rows.

    Raises:
        ImportError: SciPy is missing.
        TypeError: ``targets`` are not sparse.

    Example:
        >>> cooccurrence(CSRTargets.from_lists([[0, 1], [0, 2], [0]], num_labels=3)).toarray().tolist()
        [[3, 1, 1], [1, 1, 0], [1, 0, 1]]
    """
    sparse = _scipy.sparse()
    checked = _counts.check_alone(targets)
    if not isinstance(checked, CSRTargets):
        raise TypeError(f"targets: expected CSRTargets, got {check.received(targets)}")
    row, label, value = _counts.entries(checked)
    if value is not None:
        row, label = row[value > 0.5], label[value > 0.5]
    ones = np.ones(len(label), np.int64)
    shape = (len(checked), checked.num_labels)
    y = sparse.csr_array((ones, (row.cpu().numpy(), label.cpu().numpy())), shape=shape)
    product = (y.T @ y).tocsr()
    product.sort_indices()
    return product


def label_embeddings(targets: Any, dim: int, *, seed: int = 0) -> Tensor:
    r"""Compute a vector for each label, similar for labels that co-occur with the same others.

    The vectors can initialise the weight of ``LinearLoss``. They are the truncated SVD :math:`U_d \sqrt{S_d}` of the
    positive pointwise mutual information of labels,

    .. math:: \max\Big(0, \log \frac{n_{ij} N}{n_i n_j}\Big), \qquad n_i = \sum_j n_{ij}, \quad N = \sum_i n_i

    over :math:`i \ne j`, scaled so that the root of the mean square is that of ``nn.Linear``'s initial weight,
    :math:`1 / \sqrt{3d}`. Labels that share no row with another label have a vector of 0.

    Args:
        targets: ``CSRTargets`` of the training data, or their :func:`cooccurrence`.
        dim: d, in ``[1, L - 1]``.
        seed: the seed of the SVD's initial vector. The same seed gives the same embeddings; the columns' signs are
            chosen so that the entry of largest absolute value is positive. Default 0.

    Returns:
        float32 ``[L, dim]``, columns ordered by falling singular value.

    Raises:
        ImportError: SciPy is missing.
        TypeError: an argument has a wrong type.
        ValueError: ``dim`` is out of range, or a matrix is not square.

    Source:
        Levy, Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1, 2], [3, 5], [4, 5]], num_labels=6)
        >>> vectors = label_embeddings(targets, 4)
        >>> torch.allclose(vectors[0], vectors[1], atol=1e-5), torch.allclose(vectors[0], vectors[3], atol=1e-5)
        (True, False)
        >>> with torch.no_grad():
        ...     _ = LinearLoss(4, 6, ZLPRLoss()).weight.copy_(vectors)
    """
    counts = targets if hasattr(targets, "tocsr") else cooccurrence(targets)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"targets: expected a square matrix of co-occurrence, got shape {counts.shape}")
    labels = counts.shape[0]
    for name, value in (("dim", dim), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {check.received(value)}")
    if not 1 <= dim < labels:
        raise ValueError(f"dim: expected at least 1 and below {labels} labels, got {dim}")
    information = _information(counts)
    if information.nnz == 0:
        return torch.zeros(labels, dim)
    first = np.random.default_rng(seed).standard_normal(labels)
    left, singular, _ = _scipy.linalg().svds(information, k=dim, v0=first)
    order = np.argsort(-singular)
    vectors = left[:, order] * np.sqrt(np.maximum(singular[order], 0))
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(dim)] < 0, -1.0, 1.0)
    vectors *= 1 / np.sqrt(3 * dim * np.square(vectors).mean())
    return torch.from_numpy(vectors).float()


def _information(counts: Any) -> Any:
    """Return the positive pointwise mutual information, without the diagonal."""
    sparse = _scipy.sparse()
    pairs = sparse.coo_array(counts)
    apart = (pairs.row != pairs.col) & (pairs.data > 0)
    row, column, n = pairs.row[apart], pairs.col[apart], pairs.data[apart].astype(np.float64)
    marginal = np.bincount(row, n, minlength=counts.shape[0])
    value = np.maximum(np.log(n * n.sum() / (marginal[row] * marginal[column])), 0)
    return sparse.csr_array((value[value > 0], (row[value > 0], column[value > 0])), shape=counts.shape)
