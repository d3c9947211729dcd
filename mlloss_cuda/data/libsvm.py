"""The multi-label format of LIBSVM."""

from __future__ import annotations

import re

from . import _lines, _points
from .container import MultiLabelData

__all__ = ["read_libsvm"]

_QUERY = re.compile(rb"(^| )qid:\d+(?= |$)")


def read_libsvm(
    path: _lines.Path,
    *,
    num_features: int | None = None,
    num_labels: int | None = None,
    one_based: bool = True,
    one_based_labels: bool = False,
) -> MultiLabelData:
    """Read a multi-label file in LIBSVM's format, ``l1,l2 f1:v1 f2:v2`` on each line.

    Blank lines, comments after a ``#``, and query numbers (``qid:3``) are ignored. A line of pairs only is a point
    without labels. ``sklearn.datasets.dump_svmlight_file`` numbers features from 0 by default; read its files with
    ``one_based=False``. A label may be written as ``3.0``.

    Args:
        path: the path of the file, plain or compressed by gzip, bzip2 or xz.
        num_features, num_labels: F and L. None (default): the highest number in the file determines them. Pass both
            for a test file, in which the highest number of the training file may not occur.
        one_based: whether features are numbered from 1, else from 0. Default True.
        one_based_labels: whether labels are numbered from 1, else from 0. Default False.

    Returns:
        Features float32 ``[rows, F]`` and targets, both numbered from 0.

    Raises:
        ImportError: SciPy is missing.
        OSError: the file cannot be opened.
        TypeError: ``num_features`` or ``num_labels`` is not an int.
        ValueError: one of these is negative, a line is malformed, or a number is out of range. The latter errors name
            file and line.

    Warns:
        UserWarning: the last line has no newline, so the file may have been cut off within its last row.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "train.svm")
        ...     _ = path.write_text("0,2 1:0.5 3:1\\n1:2  # no labels\\n")
        ...     data = read_libsvm(path)
        >>> data.features.toarray().tolist()
        [[0.5, 0.0, 1.0], [2.0, 0.0, 0.0]]
    """
    for name, count in (("num_features", num_features), ("num_labels", num_labels)):
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name}: expected an int or None, got {type(count).__name__}")
        if count < 0:
            raise ValueError(f"{name}: expected at least 0, got {count}")
    form = _points.Format(
        int(one_based),
        int(one_based_labels),
        num_features,
        num_labels,
        "; one_based=False reads features that are numbered from 0",
        "; one_based_labels=False reads labels that are numbered from 0",
    )
    parts = []
    for block in _lines.blocks(path, warns=True):
        lines = [_QUERY.sub(b"", line.partition(b"#")[0]) for line in block.lines]
        if all(line.strip() for line in lines):
            parts.append(_points.parse(path, _lines.Block(block.number, lines), form))
            continue
        # Blank lines are not points; the other lines keep their numbers.
        for number, line in enumerate(lines, block.number):
            if line.strip():
                parts.append(_points.parse(path, _lines.Block(number, [line]), form))
    if num_features is None:
        num_features = 1 + max((int(part.columns.max()) for part in parts if len(part.columns)), default=-1)
    if num_labels is None:
        num_labels = 1 + max((int(part.labels.max()) for part in parts if len(part.labels)), default=-1)
    return _points.assemble(parts, num_features, num_labels)
