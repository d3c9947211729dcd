"""Sparse multi-label targets in CSR form."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

__all__ = ["CSRTargets", "as_int"]

_INDEX_DTYPES = (torch.int32, torch.int64)
_PARTS = ("crow_indices", "col_indices", "num_labels", "values")


def as_int(value: Any) -> Any:
    """Return an integer of another type, such as NumPy's, as an int, and anything else unchanged."""
    return int(value) if not isinstance(value, (int, torch.SymInt)) and isinstance(value, numbers.Integral) else value


class CSRTargets:
    """The positive labels of each row, as compressed sparse rows.

    Row ``i`` holds the labels ``col_indices[crow_indices[i]:crow_indices[i + 1]]``; every other
    label is a negative. A batch of 128 rows of 2.8 million labels, with 18 positives each, takes 19 kB; as a
    bool tensor it takes 360 MB. It can be passed through ``torch.compile(fullgraph=True)``.

    Args:
        crow_indices: int32 or int64 ``[rows + 1]``, non-decreasing from 0.
        col_indices: ``[nnz]`` or longer (entries past ``crow_indices[-1]`` are not read), of the same dtype:
            sorted and unique in each row, and within ``[0, num_labels)``.
        num_labels: L, the number of labels.
        values: floating, of ``col_indices``' length, or None for ones: probabilities in [0, 1].
            0 makes a negative; a value below 0 excludes that label in that row (unknown labels,
            items already seen). Default None.
        validate: None (default) checks the values of CPU tensors but not of GPU tensors, where the check would
            synchronise; True always checks, False never does. Kernels never access memory outside their buffers.

    Raises:
        TypeError: an argument is not a tensor, or has a wrong dtype.
        ValueError: shapes, devices or values do not fit.

    Example:
        >>> targets = CSRTargets.from_lists([[0, 2], [], [1]], num_labels=4)
        >>> targets.to_dense().int().tolist()
        [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    """

    # Not a dataclass: Lightning writes to the fields of dataclasses and infers batch sizes from them.
    crow_indices: Tensor
    col_indices: Tensor
    num_labels: int
    values: Tensor | None

    def __init__(
        self,
        crow_indices: Tensor,
        col_indices: Tensor,
        num_labels: int,
        values: Tensor | None = None,
        validate: bool | None = None,
    ) -> None:
        object.__setattr__(self, "crow_indices", crow_indices)
        object.__setattr__(self, "col_indices", col_indices)
        object.__setattr__(self, "num_labels", as_int(num_labels))
        object.__setattr__(self, "values", values)
        _check_structure(self)
        if validate is None:
            validate = crow_indices.device.type == "cpu" and not torch.compiler.is_compiling()
        if validate:
            _check_values(self)

    # ---- constructors --------------------------------------------------------------------------

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]], num_labels: int) -> CSRTargets:
        """Make targets from the labels of each row, in any order; duplicates are dropped.

        Raises:
            TypeError: a label is not an int, or is a bool: use ``from_dense`` for the rows of a mask.
            ValueError: a label lies outside ``[0, num_labels)``, or a row has a 0 or 1 for every label.
        """
        crow, columns = [0], []
        for row in rows:
            labels = [_label_number(label) for label in row]
            distinct = set(labels)
            if len(labels) == num_labels > 2 and distinct <= {0, 1}:
                raise ValueError(
                    f"rows: expected the numbers of each row's labels, got a row of {num_labels} zeros and ones; for "
                    "rows with a number for every label, use CSRTargets.from_dense(torch.tensor(rows))"
                )
            columns.extend(sorted(distinct))
            crow.append(len(columns))
        return cls(torch.tensor(crow), torch.tensor(columns, dtype=torch.int64), num_labels)

    @classmethod
    def from_padded(cls, indices: Tensor, num_labels: int, padding: int = -1) -> CSRTargets:
        """Make targets from ``[rows, width]`` label indices, padded by ``padding``; duplicates are dropped.

        Shapes do not depend on values: the targets have a capacity of ``rows * width`` entries. The call does not wait
        for the GPU, and works under ``torch.compile(fullgraph=True)``.

        Raises:
            TypeError: ``indices`` has a wrong dtype or shape.
            ValueError: a label lies outside ``[0, num_labels)``. Only indices on the CPU are checked.
        """
        if not isinstance(indices, Tensor) or indices.dim() != 2 or indices.dtype not in _INDEX_DTYPES:
            raise TypeError("indices: expected an int32 or int64 tensor of shape [rows, width]")
        present = indices != padding
        validate = indices.device.type == "cpu" and not torch.compiler.is_compiling()
        if validate and bool((present & ((indices < 0) | (indices >= num_labels))).any()):
            raise ValueError(f"indices: expected labels in [0, {num_labels}), got some outside")
        crow, columns = _compacted(indices.long(), present)
        return cls(crow, columns, num_labels, validate=False)

    @classmethod
    def from_dense(cls, dense: Tensor) -> CSRTargets:
        """Make targets from dense ones, ``[..., L]``.

        Integers >= 1 are positive, floating values are probabilities, and a negative value excludes its label.
        """
        if not isinstance(dense, Tensor) or dense.dim() == 0 or dense.layout != torch.strided:
            raise TypeError("dense: expected a dense tensor of shape [..., L]")
        labels = dense.shape[-1]
        flat = dense.reshape(math.prod(dense.shape[:-1]), labels)
        row, column = flat.nonzero(as_tuple=True)
        entries = flat[row, column]
        values: Tensor | None = entries
        if not entries.is_floating_point():
            values = None if bool((entries > 0).all()) else entries.float().clamp(max=1)
        return cls(_crow_of(row, flat.shape[0]), column, labels, values)

    @classmethod
    def from_scipy(cls, matrix: Any) -> CSRTargets:
        """Make targets from a ``scipy.sparse`` matrix ``[rows, L]`` of any format; counts above 1 are positives."""
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix: expected a scipy.sparse matrix, got {type(matrix).__name__}")
        csr = matrix.astype("float32", copy=True).tocsr()  # sums of small integers would overflow
        csr.sum_duplicates()
        # Duplicates and counts above 1 make one positive.
        values = torch.from_numpy(csr.data).clamp(max=1)
        return cls(
            torch.from_numpy(csr.indptr.astype("int64")),
            torch.from_numpy(csr.indices.astype("int64")),
            int(csr.shape[1]),
            None if bool((values == 1).all()) else values,
        )

    @classmethod
    def from_sparse(cls, tensor: Tensor) -> CSRTargets:
        """Make targets from a 2-D ``torch.sparse_csr`` tensor ``[rows, L]``, without a copy of its indices."""
        if tensor.layout != torch.sparse_csr or tensor.dim() != 2:
            raise TypeError("tensor: expected a 2-D torch.sparse_csr tensor")
        values = tensor.values().detach()
        if not values.is_floating_point():
            values = values.float().clamp(max=1)
        return cls(tensor.crow_indices(), tensor.col_indices(), tensor.shape[1], values)

    # ---- as a container --------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{name}: CSRTargets are immutable; construct new ones from their parts")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: CSRTargets are immutable; construct new ones from their parts")

    def __len__(self) -> int:
        return self.crow_indices.shape[0] - 1

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.crow_indices.device

    def __repr__(self) -> str:
        values = "" if self.values is None else f", values={self.values.dtype}"
        return (
            f"CSRTargets(rows={len(self)}, num_labels={self.num_labels}, "
            f"capacity={self.col_indices.shape[0]}{values}, device={str(self.device)!r})"
        )

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> CSRTargets:
        """Select rows by an int (one row), a slice, or indices or a mask as for a tensor."""
        if isinstance(rows, (int, Tensor)) or hasattr(rows, "__index__"):
            rows = _one_row(rows, len(self))
        index = torch.arange(len(self), device=self.device)[rows]
        if index.dim() != 1:
            raise ValueError(f"rows: expected one dimension of indices, got {index.dim()}")
        starts = self.crow_indices[:-1][index].long()
        counts = self.crow_indices[1:][index].long() - starts
        crow = torch.zeros(len(index) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(counts, 0, out=crow[1:])
        # The position of every kept entry is its row's start plus its number within the row.
        within = torch.arange(int(crow[-1]), device=self.device) - crow[:-1].repeat_interleave(counts)
        place = starts.repeat_interleave(counts) + within
        return self._replace(
            crow_indices=crow.to(self.crow_indices.dtype),
            col_indices=self.col_indices[place],
            values=None if self.values is None else self.values[place],
        )

    def label_range(self, start: int, stop: int) -> CSRTargets:
        """Return the labels ``start .. stop - 1`` of every row, numbered from 0: the targets of one shard."""
        if not 0 <= start <= stop <= self.num_labels:
            raise ValueError(f"start, stop: expected 0 <= start <= stop <= {self.num_labels}, got {start}, {stop}")
        used = int(self.crow_indices[-1])
        columns = self.col_indices[:used]
        inside = (columns >= start) & (columns < stop)
        row = torch.arange(len(self), device=self.device).repeat_interleave(self.crow_indices.diff().long())
        return self._replace(
            crow_indices=_crow_of(row[inside], len(self)).to(self.crow_indices.dtype),
            col_indices=columns[inside] - start,
            num_labels=stop - start,
            values=None if self.values is None else self.values[:used][inside],
        )

    # ---- conversions -----------------------------------------------------------------------------

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CSRTargets:
        """Return these targets on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CSRTargets:
        """Return these targets in page-locked memory, for non-blocking copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to_dense(self) -> Tensor:
        """Return ``[rows, L]`` dense targets: bool, or the dtype of ``values``."""
        used = int(self.crow_indices[-1])
        row = torch.arange(len(self), device=self.device).repeat_interleave(self.crow_indices.diff().long())
        dtype = torch.bool if self.values is None else self.values.dtype
        dense = torch.zeros(len(self), self.num_labels, dtype=dtype, device=self.device)
        ones = torch.ones(used, dtype=dtype, device=self.device)
        dense[row, self.col_indices[:used].long()] = ones if self.values is None else self.values[:used]
        return dense

    def pad_to(self, capacity: int) -> CSRTargets:
        """Return the same targets with a capacity of ``capacity`` entries: static shapes for CUDA graphs."""
        extra = capacity - self.col_indices.shape[0]
        if extra < 0:
            raise ValueError(f"capacity: expected at least {self.col_indices.shape[0]}, got {capacity}")
        return self._replace(
            col_indices=torch.cat([self.col_indices, self.col_indices.new_zeros(extra)]),
            values=None if self.values is None else torch.cat([self.values, self.values.new_zeros(extra)]),
        )

    def ne(self, value: float) -> Unequal:
        """Return the places where the ``[rows, L]`` targets differ from ``value``; :meth:`Unequal.sum` counts them.

        Hugging Face's ``Trainer`` counts the labels of a batch by ``labels.ne(-100).sum()``.

        Example:
            >>> CSRTargets.from_lists([[0, 2], [1]], num_labels=4).ne(-100).sum()
            tensor(8)
        """
        return Unequal(self, value)

    def _replace(self, **changes: Any) -> CSRTargets:
        """Return these targets with other parts, which are not checked."""
        parts = {name: changes.get(name, getattr(self, name)) for name in _PARTS}
        return CSRTargets(**parts, validate=False)

    def _map(self, f: Any) -> CSRTargets:
        values = None if self.values is None else f(self.values)
        return self._replace(crow_indices=f(self.crow_indices), col_indices=f(self.col_indices), values=values)


class Unequal:
    """The places where targets differ from a number: a ``[rows, L]`` mask that can be counted and is never formed."""

    def __init__(self, targets: CSRTargets, value: float) -> None:
        self._targets, self._value = targets, value

    def sum(self) -> Tensor:
        """Count the places without a synchronisation, as a 0-d int64 tensor on the targets' device."""
        targets, value = self._targets, self._value
        used = targets.crow_indices[-1].long()
        stored = torch.ones_like(targets.col_indices) if targets.values is None else targets.values
        in_use = torch.arange(stored.shape[0], device=targets.device) < used
        count = ((stored != value) & in_use).sum()
        return count if value == 0 else count + (len(targets) * targets.num_labels - used)


def _one_row(rows: Any, count: int) -> Any:
    """Return a single index (an int, NumPy integer or 0-d tensor) as a list, and other ``rows`` unchanged."""
    if isinstance(rows, bool) or getattr(rows, "ndim", 0) > 0:
        return rows
    row = operator.index(rows)
    if not -count <= row < count:
        raise IndexError(f"row {row} of {count}")
    return [row]


def _label_number(label: Any) -> int:
    if isinstance(label, bool) or "bool" in str(getattr(label, "dtype", "")):
        raise TypeError(
            f"rows: expected the numbers of each row's labels, got {bool(label)}; for rows with True or False for "
            "every label, use CSRTargets.from_dense(torch.tensor(rows))"
        )
    try:
        return operator.index(label)
    except TypeError:
        raise TypeError(
            f"rows: expected the numbers of each row's labels, got {label!r} ({type(label).__name__}); for rows with a "
            "number for every label, use CSRTargets.from_dense(torch.tensor(rows))"
        ) from None


def _crow_of(row: Tensor, rows: int) -> Tensor:
    crow = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=crow[1:])
    return crow


def _from_pairs(row: Tensor, column: Tensor, rows: int, num_labels: int) -> CSRTargets:
    """Make targets from pairs of a row and a label in any order; duplicates are dropped."""
    if column.numel() and not (int(column.min()) >= 0 and int(column.max()) < num_labels):
        raise ValueError(f"indices: expected labels in [0, {num_labels}), got some outside")
    pairs = torch.unique(row * max(num_labels, 1) + column)
    row = pairs.div(max(num_labels, 1), rounding_mode="floor")
    return CSRTargets(_crow_of(row, rows), pairs - row * num_labels, num_labels)


def _compacted(indices: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``crow_indices`` and ``col_indices`` for ``[rows, width]`` labels, sorted and unique in each row."""
    rows, width = indices.shape
    last = torch.iinfo(indices.dtype).max
    columns = indices.masked_fill(~present, last).sort(dim=1).values
    kept = columns != last
    kept[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    crow = torch.zeros(rows + 1, dtype=torch.int64, device=indices.device)
    crow[1:] = kept.sum(1).cumsum(0)
    # Each kept entry goes to its position in the order of rows, all other entries go past the end.
    kept, columns = kept.reshape(-1), columns.reshape(-1)
    place = torch.where(kept, kept.cumsum(0) - 1, rows * width)
    return crow, columns.new_zeros(rows * width + 1).scatter(0, place, columns)[:-1]


def _check_structure(targets: CSRTargets) -> None:
    crow, columns, values = targets.crow_indices, targets.col_indices, targets.values
    for name, tensor in (("crow_indices", crow), ("col_indices", columns)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected an int32 or int64 tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _INDEX_DTYPES:
            raise TypeError(f"{name}: expected int32 or int64, got {tensor.dtype}")
        if tensor.dim() != 1:
            raise ValueError(f"{name}: expected one dimension, got shape {tuple(tensor.shape)}")
    if crow.shape[0] < 1:
        raise ValueError("crow_indices: expected rows + 1 entries, got none")
    if columns.dtype != crow.dtype:
        raise TypeError(f"col_indices: expected crow_indices' dtype {crow.dtype}, got {columns.dtype}")
    if columns.device != crow.device:
        raise ValueError(f"col_indices: expected on {crow.device}, as crow_indices, got {columns.device}")
    if isinstance(targets.num_labels, bool) or not isinstance(targets.num_labels, (int, torch.SymInt)):
        raise TypeError(f"num_labels: expected an int, got {type(targets.num_labels).__name__}")
    if targets.num_labels < 0:
        raise ValueError(f"num_labels: expected >= 0, got {targets.num_labels}")
    if values is None:
        return
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values: expected a floating tensor or None, got {got}")
    if values.shape != columns.shape:
        raise ValueError(f"values: expected col_indices' shape {tuple(columns.shape)}, got {tuple(values.shape)}")
    if values.device != crow.device:
        raise ValueError(f"values: expected on {crow.device}, as crow_indices, got {values.device}")


def _check_values(targets: CSRTargets) -> None:
    crow, columns = targets.crow_indices, targets.col_indices
    used = int(crow[-1])
    if int(crow[0]) != 0 or bool((crow.diff() < 0).any()):
        raise ValueError("crow_indices: expected non-decreasing values from 0")
    if used > columns.shape[0]:
        raise ValueError(f"crow_indices: the last entry is {used}, but col_indices has {columns.shape[0]}")
    if used == 0:
        return
    columns = columns[:used]
    low, high = int(columns.min()), int(columns.max())
    if low < 0 or high >= targets.num_labels:
        raise ValueError(f"col_indices: expected labels in [0, {targets.num_labels}), got {low} to {high}")
    starts = torch.zeros(used + 1, dtype=torch.bool, device=columns.device)
    starts[crow[:-1].long()] = True
    if bool(((columns.diff() <= 0) & ~starts[1:used]).any()):
        raise ValueError("col_indices: expected sorted and unique labels in each row")


# This lets torch.load read saved targets without weights_only=False.
torch.serialization.add_safe_globals([CSRTargets])
