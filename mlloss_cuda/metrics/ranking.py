"""Metrics of the first k predicted labels of each row."""

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
    """Compute the share of right labels among the first k; the mean over rows, including those without positives.

    Args:
        indices: int32 or int64 ``[rows, K]``, the predicted labels, best first, none twice in a row, as from
            ``LinearLoss.topk``; -1 stands for no label. Or sparse scores ``[rows, L]``, ``torch.sparse_csr`` or a SciPy
            matrix: a row's labels are its entries, the highest score first, and the lowest label among equal scores.
        targets: targets of the same rows: ``CSRTargets``, ``torch.sparse_csr``, or dense ``[rows, L]``. Values above
            1/2 are positive; unknown labels are not.
        k: in ``[1, K]`` (for sparse scores ``[1, L]``), or several.
        exclude: labels that must not be predicted, in the form of targets of the same rows, as in ``topk``; later
            labels move up. Excluded labels stay positive in ``targets``. Default None.
        sample_weight: ``[rows]``, >= 0, the rows' weights in the mean. Default None.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without rows.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes or devices do not fit, an index or k is out of range (indices on a GPU are not checked), or
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
    """Compute the share of a row's positives among its first k labels; the mean over rows.

    Rows without positives count as 0.

    Args:
        indices, targets, k, exclude, sample_weight: as in :func:`precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without rows.

    Raises:
        TypeError, ValueError: as in :func:`precision_at_k`.

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
    r"""Compute the normalised discounted cumulative gain, the mean over rows.

    .. math:: \Big(\sum_{i \le k} \frac{y_i}{\log_2(1 + i)}\Big) \Big/ \sum_{i \le \min(k, n)} \frac1{\log_2(1 + i)}

    for a row of n positives, where :math:`y_i = 1` if the i-th predicted label is positive, else 0. Rows without
    positives count as 0.

    Args:
        indices, targets, k, exclude, sample_weight: as in :func:`precision_at_k`.

    Returns:
        float32, 0-d, in [0, 1]; for several k ``[len(k)]``. NaN without rows.

    Raises:
        TypeError, ValueError: as in :func:`precision_at_k`.

    Source:
        The definition of http://manikvarma.org/downloads/XC/XMLRepository.html.

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
