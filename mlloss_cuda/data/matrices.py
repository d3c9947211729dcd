"""Sparse matrices and pairs of rows and labels in text: the files of data sets whose labels have descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .. import _validation as check
from ..targets import CSRTargets, _from_pairs
from . import _lines, _points
from .container import MultiLabelData

__all__ = ["read_label_pairs", "read_sparse_matrix", "read_xmc_matrices"]


def read_sparse_matrix(path: _lines.Path) -> Any:
    """Read a sparse matrix of the Extreme Classification Repository, such as ``trn_X_Xf.txt`` or ``trn_X_Y.txt``.

    The first line is ``num_rows num_columns``; each other line is a row, ``column:value column:value``, with columns
    numbered from 0. A blank line is a row without entries.

    Args:
        path: the path of the file, plain or compressed by gzip, bzip2 or xz.

    Returns:
        ``scipy.sparse.csr_array`` ``[num_rows, num_columns]``, float32, columns sorted and unique in each row.
        ``CSRTargets.from_scipy`` converts it to targets.

    Raises:
        ImportError: SciPy is missing.
        OSError: the file cannot be opened.
        ValueError: the file is malformed: the header is not two counts, the number of rows differs from it, a column
            is out of range or occurs twice in a row, or a value is NaN or infinite. The error names file and line.

    Warns:
        UserWarning: the last line has no newline, so the file may have been cut off within its last row.

    Source:
        http://manikvarma.org/downloads/XC/XMLRepository.html, the data sets whose names begin with LF.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "trn_X_Y.txt")
        ...     _ = path.write_text("3 4\\n2:1.0 0:1.0\\n\\n3:1.0\\n")
        ...     read_sparse_matrix(path).toarray().tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    header, blocks = _points.counted_lines(path, ("num_rows", "num_columns"), "rows")
    form = _points.Format(num_features=header[1], num_labels=0)
    parts = [_points.parse(path, _as_features(path, block), form) for block in blocks]
    return _points.assemble(parts, header[1], 0).features


def _as_features(path: _lines.Path, block: _lines.Block) -> _lines.Block:
    """Mark all lines as points without labels; text before the first pair is an error."""
    for number, line in enumerate(block.lines, block.number):
        if b":" not in line and line.strip():
            _lines.fail(path, number, f"expected 'column:value column:value', got {_points.shown(line)}")
    return _lines.Block(block.number, [b" " + line.lstrip() for line in block.lines])


def read_xmc_matrices(features: _lines.Path, labels: _lines.Path) -> MultiLabelData:
    """Read the two matrices of a data set, such as ``trn_X_Xf.txt`` and ``trn_X_Y.txt``.

    Args:
        features: the path of the features' matrix, as for :func:`read_sparse_matrix`.
        labels: the path of the labels' matrix, with the same number of rows. A value in [0, 1) is a probability.

    Returns:
        :class:`MultiLabelData` of both matrices.

    Raises:
        ImportError, OSError: as in :func:`read_sparse_matrix`.
        ValueError: as in :func:`read_sparse_matrix`, or a label's value is negative, or the numbers of rows differ.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = pathlib.Path(folder, "trn_X_Xf.txt"), pathlib.Path(folder, "trn_X_Y.txt")
        ...     _ = x.write_text("2 3\\n0:0.5\\n2:1\\n"), y.write_text("2 4\\n3:1\\n0:1 1:1\\n")
        ...     data = read_xmc_matrices(x, y)
        >>> data.targets.to_dense().int().tolist()
        [[0, 0, 0, 1], [1, 1, 0, 0]]
    """
    matrix = read_sparse_matrix(labels)
    if matrix.nnz and matrix.data.min() < 0:
        raise ValueError(f"{labels}: expected labels' values of at least 0, got {matrix.data.min():g}")
    return MultiLabelData(read_sparse_matrix(features), CSRTargets.from_scipy(matrix))


def read_label_pairs(path: _lines.Path, num_rows: int, num_labels: int) -> CSRTargets:
    """Read pairs of a row and a label, such as ``filter_labels_test.txt``: labels that evaluation excludes for a row.

    Each line is ``row label``, both numbered from 0; blank lines are ignored. Pass the result as ``exclude=`` to
    ``LinearLoss.topk`` and to the metrics at k.

    Args:
        path: the path of the file, plain or compressed by gzip, bzip2 or xz.
        num_rows, num_labels: the numbers of rows and labels of the pairs' data set.

    Returns:
        ``CSRTargets`` of ``num_rows`` rows, with each pair once.

    Raises:
        OSError: the file cannot be opened.
        TypeError: ``num_rows`` or ``num_labels`` is not an int.
        ValueError: one of these is negative, a line is malformed, or a row or label is out of range. The latter errors
            name file and line.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "filter_labels_test.txt")
        ...     _ = path.write_text("0 3\\n2 1\\n")
        ...     read_label_pairs(path, num_rows=3, num_labels=4).to_dense().int().tolist()
        [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    """
    for name, count in (("num_rows", num_rows), ("num_labels", num_labels)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name}: expected an int, got {check.received(count)}")
        if count < 0:
            raise ValueError(f"{name}: expected at least 0, got {count}")
    pairs = np.array(list(_pairs(path, num_rows, num_labels)), np.int64).reshape(-1, 2)
    row, label = torch.from_numpy(pairs).unbind(1)
    return _from_pairs(row, label, num_rows, num_labels)


def _pairs(path: _lines.Path, num_rows: int, num_labels: int) -> Iterator[tuple[int, int]]:
    for block in _lines.blocks(path):
        for number, line in enumerate(block.lines, block.number):
            tokens = line.split()
            if not tokens:
                continue
            if len(tokens) != 2 or not all(token.isdigit() for token in tokens):
                _lines.fail(path, number, f"expected 'row label', got {_points.shown(line)}")
            row, label = map(int, tokens)
            if row >= num_rows or label >= num_labels:
                _lines.fail(
                    path, number, f"expected a row below {num_rows} and a label below {num_labels}, got {row} {label}"
                )
            yield row, label
