"""The data set that the readers return, and its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..targets import CSRTargets
from . import _scipy

__all__ = ["MultiLabelData", "csr_collate"]

Rows = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True, eq=False)
class MultiLabelData:
    """Rows of features with their labels; a map-style data set for ``DataLoader`` with :func:`csr_collate`.

    Args:
        features: ``scipy.sparse.csr_array`` ``[rows, F]``, float32, columns sorted and unique in each row.
        targets: ``CSRTargets`` of the same number of rows.
        feature_names: F names, or None if the file has none. Default None.
        label_names: L names, or None if the file has none. Default None.

    ``len(data)`` is the number of rows; ``data[rows]``, for an int (one row), a slice, indices or a mask, is the
    ``MultiLabelData`` of these rows.

    Raises:
        ValueError: features and targets differ in their number of rows.

    Example:
        >>> import scipy.sparse
        >>> features = scipy.sparse.csr_array([[0.0, 2.0], [1.0, 0.0]])
        >>> data = MultiLabelData(features, CSRTargets.from_lists([[0], [1, 2]], num_labels=3))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=csr_collate)
        >>> x, targets = next(iter(loader))
        >>> x.to_dense().tolist(), len(targets)
        ([[0.0, 2.0], [1.0, 0.0]], 2)
    """

    features: Any
    targets: CSRTargets
    feature_names: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.features.shape[0] != len(self.targets):
            raise ValueError(f"features: expected {len(self.targets)} rows, as targets, got {self.features.shape[0]}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Rows) -> MultiLabelData:
        chosen = _numbers(rows, len(self))
        return replace(self, features=self.features[chosen.numpy()], targets=self.targets[chosen])

    def __getitems__(self, rows: Sequence[int]) -> list[MultiLabelData]:
        """Return a whole batch; ``DataLoader`` calls this method if it exists."""
        return [self[rows]]


def _numbers(rows: Rows, count: int) -> Tensor:
    """Return the numbers of the chosen rows, ``[n]``; the cost of a single row does not grow with the file."""
    if isinstance(rows, int) and not isinstance(rows, bool):
        if not -count <= rows < count:
            raise IndexError(f"rows: expected at least {-count} and below {count}, got {rows}")
        return torch.tensor([rows % count], device="cpu")
    return torch.arange(count, device="cpu")[rows].reshape(-1)


def csr_collate(
    samples: Sequence[Any],
    num_labels: int | None = None,
    *,
    labels: str = "labels",
    collate: Callable[[list[Any]], Any] | None = None,
) -> Any:
    """Make a batch for a ``DataLoader``: features, and targets that stay sparse.

    Args:
        samples: a list of :class:`MultiLabelData`, of pairs (features, labels), or of dicts as in Hugging Face's data
            sets. Labels are a sequence of ints, in any order, or ``CSRTargets``; masks are not supported.
        num_labels: L, required if labels are sequences of ints: ``functools.partial(csr_collate, num_labels=L)``.
            Default None.
        labels: the key of a dict's labels. Default ``"labels"``, the key of Hugging Face's ``Trainer``.
        collate: a function that joins a list of features, or of dicts without their labels, such as a tokenizer's
            ``DataCollatorWithPadding``. Default None: PyTorch's ``default_collate``, and SciPy's rows as below.

    Returns:
        Features and ``CSRTargets``; from dicts, a dict in which ``labels`` are ``CSRTargets``.
        SciPy's sparse rows become one ``torch.sparse_csr`` tensor ``[B, F]``, for
        ``x @ weight``, or, without a product, ``EmbeddingBag`` of ``(x.col_indices(), x.crow_indices()[:-1])`` with
        ``per_sample_weights=x.values()``. PyTorch's ``default_collate`` joins other features.

    Raises:
        TypeError: ``num_labels`` is None and labels are sequences of ints; labels have different kinds or are bool;
            or samples have an unsupported kind.
        ValueError: there are no samples, dicts have no labels, a label is outside ``[0, num_labels)``, or samples
            differ in F or L.

    Example:
        >>> x, targets = csr_collate([(torch.zeros(2), [4, 1]), (torch.ones(2), [])], num_labels=5)
        >>> x.shape, targets
        (torch.Size([2, 2]), CSRTargets(rows=2, num_labels=5, capacity=2, device='cpu'))
    """
    if not samples:
        raise ValueError("samples: expected at least one, got none")
    join = _join_features if collate is None else collate
    if isinstance(samples[0], Mapping):
        return _join_dicts(samples, num_labels, labels, join)
    pairs = [(s.features, s.targets) if isinstance(s, MultiLabelData) else s for s in samples]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"samples: expected MultiLabelData, pairs or dicts, got {type(pair).__name__}")
    features, targets = zip(*pairs, strict=True)
    return join(list(features)), _join_targets(targets, num_labels)


def _join_dicts(
    samples: Sequence[Any], num_labels: int | None, labels: str, join: Callable[[list[Any]], Any]
) -> MutableMapping[str, Any]:
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise TypeError(f"samples: expected samples of one kind, got a dict and {type(sample).__name__}")
        if labels not in sample:
            raise ValueError(f"samples: expected labels under {labels!r}, got keys {sorted(map(str, sample))}")
    others = [{key: value for key, value in sample.items() if key != labels} for sample in samples]
    batch: MutableMapping[str, Any] = join(others) if others[0] else {}
    batch[labels] = _join_targets([sample[labels] for sample in samples], num_labels)
    return batch


def _join_features(features: Sequence[Any]) -> Any:
    if not hasattr(features[0], "tocsr"):
        return default_collate(list(features))
    sparse = _scipy.sparse()
    # SciPy's array of one row may have a single dimension.
    rows = [sparse.csr_array(each.reshape(1, -1) if each.ndim == 1 else each) for each in features]
    widths = sorted({each.shape[1] for each in rows})
    if len(widths) > 1:
        raise ValueError(f"samples: expected features of one width, got {widths}")
    matrix = rows[0].copy() if len(rows) == 1 else sparse.vstack(rows, format="csr")
    crow, columns = (torch.from_numpy(part.astype("int64")) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data)
    return torch.sparse_csr_tensor(crow, columns, values, matrix.shape, device="cpu", check_invariants=False)


def _join_targets(labels: Sequence[Any], num_labels: int | None) -> CSRTargets:
    sparse = [isinstance(each, CSRTargets) for each in labels]
    if any(sparse):
        if not all(sparse):
            raise TypeError("samples: expected labels of one kind, got CSRTargets and sequences")
        if num_labels not in (None, labels[0].num_labels):
            raise ValueError(f"num_labels: expected {labels[0].num_labels}, as the samples have, got {num_labels}")
        return _concatenate(labels)
    if num_labels is None:
        raise TypeError("num_labels: expected an int, because labels are given as sequences, got None")
    if any(isinstance(each, Tensor) and each.dtype == torch.bool for each in labels):
        raise TypeError(
            "samples: expected labels as numbers, got a bool tensor; convert a sample's mask by "
            "CSRTargets.from_dense(mask[None])"
        )
    rows: Iterable[Iterable[int]] = (each.tolist() if isinstance(each, Tensor) else each for each in labels)
    return CSRTargets.from_lists(rows, num_labels)


def _concatenate(parts: Sequence[CSRTargets]) -> CSRTargets:
    if len(parts) == 1:
        return parts[0]
    widths = sorted({each.num_labels for each in parts})
    if len(widths) > 1:
        raise ValueError(f"samples: expected targets of one number of labels, got {widths}")
    crow, columns, values, total = [parts[0].crow_indices[:1].long()], [], [], 0
    has_values = any(each.values is not None for each in parts)
    for each in parts:
        used = int(each.crow_indices[-1])
        crow.append(each.crow_indices[1:].long() + total)
        columns.append(each.col_indices[:used].long())
        values.append(torch.ones(used, device=each.device) if each.values is None else each.values[:used])
        total += used
    return CSRTargets(torch.cat(crow), torch.cat(columns), widths[0], torch.cat(values) if has_values else None)
