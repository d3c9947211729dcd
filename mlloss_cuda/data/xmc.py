"""The text format of the Extreme Classification Repository."""

from __future__ import annotations

from collections.abc import Iterator

from . import _lines, _points
from .container import MultiLabelData

__all__ = ["iter_xmc", "read_xmc"]


def read_xmc(path: _lines.Path) -> MultiLabelData:
    """Read a data file of the Extreme Classification Repository.

    The first line is ``num_points num_features num_labels``; each other line is a point, ``l1,l2 f1:v1 f2:v2``, all
    numbered from 0. A line that begins with a space has no labels, and a line without pairs has no features. The text
    is parsed a few megabytes at a time; memory holds the arrays, and two copies of them at the end.

    Args:
        path: the path of the file, plain or compressed by gzip, bzip2 or xz (recognised by its content).

    Returns:
        Features float32 ``[num_points, num_features]`` and targets, sorted in each row. Repeated labels of a row count
        once. Indices have 64 bits.

    Raises:
        ImportError: SciPy is missing.
        OSError: the file cannot be opened.
        ValueError: the file is malformed: the header is not three counts, the number of points differs from it, a
            number is out of range, a feature occurs twice in a row, a value is NaN or infinite, or compressed data end
            too soon. The error names file and line, and nothing is returned.

    Warns:
        UserWarning: the last line has no newline, so the file may have been cut off within its last row.

    Source:
        http://manikvarma.org/downloads/XC/XMLRepository.html

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "train.txt")
        ...     _ = path.write_text("2 4 3\\n2,0 1:0.5 3:1\\n 0:2\\n")
        ...     data = read_xmc(path)
        >>> data.features.toarray().tolist()
        [[0.0, 0.5, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0]]
        >>> data.targets.to_dense().int().tolist()
        [[1, 0, 1], [0, 0, 0]]
    """
    header, parts = _open(path, None)
    return _points.assemble(list(parts), header[1], header[2])


def iter_xmc(path: _lines.Path, batch_size: int) -> Iterator[MultiLabelData]:
    """Iterate over a file of :func:`read_xmc` with one batch of ``batch_size`` rows in memory at a time.

    Args:
        path: the path of the file, as for :func:`read_xmc`.
        batch_size: >= 1; the last batch may have fewer rows.

    Returns:
        An iterator over :class:`MultiLabelData`. The header is read at once, the rest during iteration.

    Raises:
        TypeError: ``batch_size`` is not an int.
        ValueError: ``batch_size`` is below 1, or the errors of :func:`read_xmc`: a malformed line when it is reached,
            a wrong number of points at the end.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "train.txt")
        ...     _ = path.write_text("3 1 3\\n0 0:1\\n1 0:2\\n2 0:3\\n")
        ...     [len(batch) for batch in iter_xmc(path, 2)]
        [2, 1]
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size: expected an int, got {type(batch_size).__name__}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    header, parts = _open(path, batch_size)
    return (_points.assemble([part], header[1], header[2]) for part in parts)


def _open(path: _lines.Path, batch_size: int | None) -> tuple[list[int], Iterator[_points.Points]]:
    header, counted = _points.counted_lines(path, ("num_points", "num_features", "num_labels"), "points")
    form = _points.Format(num_features=header[1], num_labels=header[2])
    return header, (_points.parse(path, block, form) for block in _grouped(counted, batch_size))


def _grouped(blocks: Iterator[_lines.Block], size: int | None) -> Iterator[_lines.Block]:
    """Regroup blocks to ``size`` lines each; None leaves them unchanged."""
    if size is None:
        yield from blocks
        return
    number, held = 2, list[bytes]()
    for block in blocks:
        held += block.lines
        whole = len(held) // size * size
        for start in range(0, whole, size):
            yield _lines.Block(number + start, held[start : start + size])
        number, held = number + whole, held[whole:]
    if held:
        yield _lines.Block(number, held)
