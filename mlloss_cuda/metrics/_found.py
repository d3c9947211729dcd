"""The ranked predictions of each row and which of them are right: the input of all metrics at k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _counts
from .. import _validation as check
from ..targets import CSRTargets
from ._pairs import Pairs, check_counts, check_sample_weight, contains, pairs_of

__all__ = ["Found"]


class _Scores(NamedTuple):
    """Scores of some labels of each row, as sparse entries."""

    row: Tensor
    label: Tensor
    score: Tensor
    rows: int
    labels: int


class Found(NamedTuple):
    """Predicted labels ``[rows, K]``, which of them are right, the number of positives of each row, and all pairs.

    ``counts`` are the requested k, ``one`` is True if k was a single int, ``weight`` are the rows' weights.
    """

    indices: Tensor
    right: Tensor
    positives: Tensor
    pairs: Pairs
    counts: list[int]
    one: bool
    weight: Tensor | None

    @classmethod
    def of(
        cls, predicted: Any, targets: Any, k: int | Sequence[int], exclude: Any = None, sample_weight: Any = None
    ) -> Found:
        """Check and rank predictions, given as indices or sparse scores."""
        scores = None if _is_indices(predicted) else _scores(predicted)
        pairs = pairs_of("targets", targets)
        indices = predicted if scores is None else scores.label
        if indices.device != pairs.positive.device:
            raise ValueError(f"indices: expected on {pairs.positive.device}, as targets, got {indices.device}")
        rows, labels = (predicted.shape[0], pairs.labels) if scores is None else (scores.rows, scores.labels)
        if (rows, labels) != (pairs.rows, pairs.labels):
            expected = f"{pairs.rows} rows" if scores is None else f"{pairs.rows} rows and {pairs.labels} labels"
            raise ValueError(
                f"indices: expected {expected}, as targets, got {rows}" + (f" and {labels}" if scores else "")
            )
        if scores is None:
            _check_labels(indices, pairs.labels)
        counts = check_counts(k, predicted.shape[1])
        excluded = None if exclude is None else _excluded(exclude, pairs)
        ranked = _without(indices, excluded, pairs.labels) if scores is None else _best(scores, excluded, max(counts))
        first = torch.arange(pairs.rows, device=ranked.device)[:, None] * pairs.labels
        right = contains(pairs.positive, first + ranked.clamp(min=0)) & (ranked >= 0)
        row = pairs.positive.div(max(pairs.labels, 1), rounding_mode="floor")
        positives = torch.bincount(row, minlength=pairs.rows)
        weight = check_sample_weight(sample_weight, pairs.rows, ranked.device)
        return cls(ranked, right, positives, pairs, counts, not isinstance(k, Sequence), weight)

    @property
    def ranks(self) -> Tensor:
        """The ranks 1 to K, float64."""
        return torch.arange(1, self.right.shape[1] + 1, dtype=torch.float64, device=self.right.device)

    @property
    def discount(self) -> Tensor:
        """The discount of each rank."""
        return 1 / torch.log2(1 + self.ranks)

    def at(self, values: Tensor) -> Tensor:
        """Select the requested k from ``values`` ``[K]``."""
        chosen = values[torch.tensor(self.counts, device=values.device) - 1].float()
        return chosen[0] if self.one else chosen


def _is_indices(predicted: Any) -> bool:
    if hasattr(predicted, "tocsr") or (isinstance(predicted, Tensor) and predicted.layout == torch.sparse_csr):
        return False
    if not isinstance(predicted, Tensor) or predicted.dtype not in (torch.int32, torch.int64):
        hint = ""
        if isinstance(predicted, Tensor) and predicted.is_floating_point():
            hint = "; for dense scores pass scores.topk(k).indices"
        came = check.received(predicted)
        raise TypeError(f"indices: expected an int32 or int64 tensor [rows, K], or sparse scores, got {came}{hint}")
    if predicted.dim() != 2:
        raise ValueError(f"indices: expected shape [rows, K], got {tuple(predicted.shape)}")
    return True


def _scores(predicted: Any) -> _Scores:
    """Convert a ``torch.sparse_csr`` tensor or a SciPy matrix."""
    if isinstance(predicted, Tensor):
        if predicted.dim() != 2:
            raise ValueError(f"indices: expected sparse scores [rows, L], got shape {tuple(predicted.shape)}")
        crow, label, score = predicted.crow_indices(), predicted.col_indices(), predicted.values().detach()
    else:
        whole = predicted.dtype.kind in "biu"  # sums of small integers would overflow
        csr = (predicted.astype("float64") if whole else predicted).tocsr().copy()
        csr.sum_duplicates()
        crow, label = (torch.from_numpy(part.astype("int64")) for part in (csr.indptr, csr.indices))
        score = torch.from_numpy(csr.data)
    if bool(score.isnan().any()):
        raise ValueError("indices: expected scores without NaN, got some")
    row = torch.arange(len(crow) - 1, device=label.device).repeat_interleave(crow.diff().long())
    return _Scores(row, label.long(), score, len(crow) - 1, int(predicted.shape[1]))


def _check_labels(indices: Tensor, labels: int) -> None:
    if not (check.readable(indices) and indices.numel()):
        return
    low, high = int(indices.min()), int(indices.max())
    if low < -1 or high >= labels:
        raise ValueError(f"indices: expected labels in [0, {labels}), or -1 for none, got {low} to {high}")
    ordered = indices.sort(1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
        raise ValueError("indices: expected each label once in a row, got some twice")


def _excluded(exclude: Any, pairs: Pairs) -> Tensor:
    """Return the sorted numbers of the excluded pairs: all entries, whatever their values, as in ``topk``."""
    checked = _counts.check_alone(exclude, "exclude")
    if isinstance(checked, Tensor):
        checked = CSRTargets.from_dense(checked)
    if (len(checked), checked.num_labels) != (pairs.rows, pairs.labels):
        came = (len(checked), checked.num_labels)
        raise ValueError(f"exclude: expected {(pairs.rows, pairs.labels)} rows and labels, as targets, got {came}")
    if checked.device != pairs.positive.device:
        raise ValueError(f"exclude: expected on {pairs.positive.device}, as targets, got {checked.device}")
    row, label, _ = _counts.entries(checked)
    return row * checked.num_labels + label


def _without(indices: Tensor, excluded: Tensor | None, labels: int) -> Tensor:
    """Remove excluded labels from each row; later labels move up, and -1 fills the end."""
    if excluded is None:
        return indices
    first = torch.arange(indices.shape[0], device=indices.device)[:, None] * labels
    out = contains(excluded, first + indices.clamp(min=0)) & (indices >= 0)
    order = out.int().argsort(dim=1, stable=True)
    return indices.masked_fill(out, -1).gather(1, order)


def _best(scores: _Scores, excluded: Tensor | None, width: int) -> Tensor:
    """Return the labels of the highest scores, ``[rows, width]``; among equal scores the lowest label comes first."""
    row, label, score = scores.row, scores.label, scores.score
    if excluded is not None:
        kept = ~contains(excluded, row * scores.labels + label)
        row, label, score = row[kept], label[kept], score[kept]
    order = score.argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, label = row[order], label[order]
    count = torch.bincount(row, minlength=scores.rows)
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    best = torch.full((scores.rows, width), -1, dtype=torch.int64, device=row.device)
    best[row[rank < width], rank[rank < width]] = label[rank < width]
    return best
