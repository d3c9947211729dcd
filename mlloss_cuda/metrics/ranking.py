"""Metrics of the k labels that a row is predicted to have, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..targets import CSRTargets
from ._found import Found
from ._pairs import mean_of_rows

__all__ = ["ndcg_at_k", "precision_at_k", "recall_at_k"]


def precision_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Of the first k labels, how many are right; the mean over rows, those without positives included.

    Args:
        indices: int32 or int64 ``[rows, K]``, the predicted labels, best first, none twice in a row, as of
            ``LinearLoss.topk``; -1 stands for none. Or sparse scores ``[rows, L]``, ``torch.sparse_csr`` or a matrix of
            SciPy's: a row's labels are its entries, the highest score first, of equal ones the lowest label.
        targets: of ``rows`` rows: ``CSRTargets``, ``torch.sparse_csr``, or dense ``[rows, L]``. Values above 1/2 are
            positive. What is unknown is not.
        k: in ``[1, K]`` (of sparse scores ``[1, L]``), or several.
        exclude: labels that are not to be predicted, of as many rows, in the form of targets, as ``topk`` takes them:
            what comes behind one moves up. They stay positive in ``targets``. Default None.
        sample_weight: ``[rows]``, >= 0, the rows' weights in the mean. Default None.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN of no rows.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices do not fit, an index or k is out of range (indices on a GPU are not looked at), or
            a score is NaN.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> precision_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, (1, 3))
        tensor([0.5000, 0.5000])
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    return found.at(mean_of_rows(found.right.double().cumsum(1), found.weight) / found.ranks)


def recall_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The share of a row's positives among the first k labels; the mean over rows. 0 for rows without positives.

    Args:
        indices, targets, k, exclude, sample_weight: as of :func:`precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN of no rows.

    Raises:
        TypeError: as :func:`precision_at_k`.
        ValueError: likewise.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> recall_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, (1, 3))
        tensor([0.2500, 1.0000])
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    share = found.right.double().cumsum(1) / found.positives.clamp(min=1)[:, None]
    return found.at(mean_of_rows(share, found.weight))


def ndcg_at_k(
    indices: Tensor | Any,
    targets: CSRTargets | Tensor,
    k: int | Sequence[int],
    *,
    exclude: CSRTargets | Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Normalised discounted cumulative gain, the mean over rows.

    .. math:: \Big(\sum_{i \le k} \frac{y_i}{\log_2(1 + i)}\Big) \Big/ \sum_{i \le \min(k, n)} \frac1{\log_2(1 + i)}

    for a row of n positives, of which the i-th predicted label is one (:math:`y_i = 1`) or not. 0 for rows without.

    Args:
        indices, targets, k, exclude, sample_weight: as of :func:`precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN of no rows.

    Raises:
        TypeError: as :func:`precision_at_k`.
        ValueError: likewise.

    Source:
        The definition is that of http://manikvarma.org/downloads/XC/XMLRepository.html.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [1]], num_labels=4)
        >>> ndcg_at_k(torch.tensor([[2, 1, 0], [0, 3, 1]]), targets, 3)
        tensor(0.7099)
    """
    found = Found.of(indices, targets, k, exclude, sample_weight)
    most = torch.cat([found.discount.new_zeros(1), found.discount.cumsum(0)])
    gain = (found.right * found.discount).cumsum(1)
    ranks = torch.arange(1, found.right.shape[1] + 1, device=found.right.device)
    best = most[torch.minimum(found.positives[:, None], ranks)]
    return found.at(mean_of_rows(gain / best.clamp(min=1e-300), found.weight))
