"""Lines of labels and features, ``l1,l2 f:v f:v``, as arrays: the common part of the XMC and libsvm formats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..targets import CSRTargets
from . import _lines, _scipy
from .container import MultiLabelData

__all__ = ["Format", "Points", "assemble", "counted_lines", "parse", "shown"]

_INTEGERS, _NUMBERS = b"0123456789+-", b"0123456789+-.eE"
_WHOLE = re.compile(rb"(\d)\.0*(?=,|$)")
Integers = NDArray[np.int64]


class Points(NamedTuple):
    """Some rows: their counts of labels and features, and these concatenated, sorted and unique in each row."""

    label_counts: Integers
    labels: Integers
    feature_counts: Integers
    columns: Integers
    values: NDArray[np.float32]


class Format(NamedTuple):
    """The number of the first feature and label, and the numbers of features and labels (None: those in the file).

    If numbering begins with 1, errors about a number 0 end with ``hint_feature`` or ``hint_label``.
    """

    first_feature: int = 0
    first_label: int = 0
    num_features: int | None = None
    num_labels: int | None = None
    hint_feature: str = ""
    hint_label: str = ""


def parse(path: _lines.Path, block: _lines.Block, form: Format) -> Points:
    """Parse the lines of a block.

    Raises:
        ValueError: a line is malformed. The error names it.
    """
    try:
        return _parse(block.lines, form)
    except (ValueError, OverflowError):
        # Parse line by line to find the first malformed one.
        for number, line in enumerate(block.lines, block.number):
            try:
                _parse([line], form)
            except (ValueError, OverflowError) as error:
                _lines.fail(path, number, str(error))
        raise


def _parse(lines: list[bytes], form: Format) -> Points:
    heads, rests = [], []
    for line in lines:
        head, _, rest = line.partition(b" ")
        if b":" in head:  # no labels and no leading space
            head, rest = b"", line
        heads.append(head)
        rests.append(rest)
    label_counts, labels = _labels(heads)
    feature_counts, columns, values = _features(rests)
    labels -= form.first_label
    columns -= form.first_feature
    _check_range("label", labels, form.first_label, form.num_labels, form.hint_label)
    _check_range("feature", columns, form.first_feature, form.num_features, form.hint_feature)
    label_counts, labels, _ = _in_order(label_counts, labels, None)
    before = len(columns)
    feature_counts, columns, ordered = _in_order(feature_counts, columns, values)
    assert ordered is not None
    if len(columns) != before:
        raise ValueError("a feature occurs twice")
    return Points(label_counts, labels, feature_counts, columns, ordered)


def _labels(heads: list[bytes]) -> tuple[Integers, Integers]:
    counts = np.fromiter((head.count(b",") + 1 if head else 0 for head in heads), np.int64, len(heads))
    text = b",".join(head for head in heads if head)
    if b"." in text:
        text = _WHOLE.sub(rb"\1", text)  # some programs write labels as 3.0
    if text.translate(None, _INTEGERS) != b"," * max(int(counts.sum()) - 1, 0):
        raise ValueError(f"expected labels as 'l1,l2', got {shown(text)}")
    tokens = text.split(b",") if text else []
    try:
        return counts, np.fromiter(map(int, tokens), np.int64, len(tokens))
    except ValueError:
        raise ValueError(f"expected labels as 'l1,l2', got {shown(text)}") from None


def _features(rests: list[bytes]) -> tuple[Integers, Integers, NDArray[np.float32]]:
    counts = np.fromiter((rest.count(b":") for rest in rests), np.int64, len(rests))
    pairs = b" ".join(rests).split()
    text = b" ".join(pairs)
    wrong = f"expected features as 'index:value index:value', finite numbers, got {shown(text)}"
    # Without the numbers only separators remain; a NaN leaves letters.
    if text.translate(None, _NUMBERS) != (b": " * len(pairs))[:-1]:
        raise ValueError(wrong)
    tokens = text.replace(b":", b" ").split(b" ") if pairs else []
    try:
        columns = np.fromiter(map(int, tokens[0::2]), np.int64, len(pairs))
        values = np.fromiter(map(float, tokens[1::2]), np.float64, len(pairs))
    except ValueError:
        raise ValueError(wrong) from None
    if len(values) and np.abs(values).max() > np.finfo(np.float32).max:
        raise ValueError("a feature's value is beyond float32")
    return counts, columns, values.astype(np.float32)


def shown(text: bytes) -> str:
    """Abbreviate text for an error message."""
    return repr(text[:60].decode("ascii", "backslashreplace")) + ("..." if len(text) > 60 else "")


def _check_range(what: str, numbers: Integers, first: int, count: int | None, hint: str) -> None:
    wrong = numbers < 0
    if count is not None:
        wrong |= numbers >= count
    if wrong.any():
        end = "" if count is None else f" and at most {first + count - 1}"
        number = int(numbers[wrong][0]) + first
        advice = hint if number == 0 and first == 1 else ""
        raise ValueError(f"{what} {number}: expected at least {first}{end}{advice}")


def _in_order(
    counts: Integers, columns: Integers, values: NDArray[np.float32] | None
) -> tuple[Integers, Integers, NDArray[np.float32] | None]:
    """Sort each row and drop duplicates."""
    row = np.repeat(np.arange(len(counts)), counts)
    if bool(((np.diff(columns) > 0) | (np.diff(row) > 0)).all()):
        return counts, columns, values
    order = np.lexsort((columns, row))
    row, columns = row[order], columns[order]
    kept = np.append(True, (np.diff(columns) > 0) | (np.diff(row) > 0))
    counts = np.bincount(row[kept], minlength=len(counts)).astype(np.int64)
    return counts, columns[kept], None if values is None else values[order][kept]


def assemble(parts: Sequence[Points], num_features: int, num_labels: int, **names: Any) -> MultiLabelData:
    """Concatenate all parts into a data set."""
    sparse = _scipy.sparse()
    joined = Points._make(np.concatenate(arrays) for arrays in zip(_EMPTY, *parts, strict=True))
    indptr = _offsets(joined.feature_counts)
    features = sparse.csr_array((joined.values, joined.columns, indptr), shape=(len(indptr) - 1, num_features))
    features.has_sorted_indices = features.has_canonical_format = True
    targets = CSRTargets(
        torch.from_numpy(_offsets(joined.label_counts)), torch.from_numpy(joined.labels), num_labels, validate=False
    )
    return MultiLabelData(features, targets, **names)


_NONE = np.zeros(0, np.int64)
_EMPTY = Points(_NONE, _NONE, _NONE, _NONE, np.zeros(0, np.float32))


def _offsets(counts: Integers) -> Integers:
    """Return row offsets in 64 bits, because extreme data sets have more entries than 32 bits can count."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def counted_lines(path: _lines.Path, counts: tuple[str, ...], rows: str) -> tuple[list[int], Iterator[_lines.Block]]:
    """Return the header's counts, the first of which is the number of lines, and the lines.

    Raises:
        ValueError: the header is malformed, or, during iteration, the number of lines differs from it.
    """
    blocks = _lines.blocks(path, warns=True)
    first = next(blocks, _lines.Block(1, [b""]))
    tokens = first.lines[0].split()
    if len(tokens) != len(counts) or not all(token.isdigit() for token in tokens):
        _lines.fail(path, 1, f"expected {' '.join(counts)!r}, got {shown(first.lines[0])}{_hint(tokens)}")
    header = [int(token) for token in tokens]
    if max(header) >= 1 << 63:
        _lines.fail(path, 1, f"expected counts below 2**63, got {max(header)}")
    return header, _counted(path, first, blocks, header[0], rows)


def _hint(tokens: list[bytes]) -> str:
    """Return advice about the reader for a file with this first line."""
    if len(tokens) in (2, 3) and all(token.isdigit() for token in tokens):
        reader = "read_sparse_matrix" if len(tokens) == 2 else "read_xmc"
        return f"; {reader} reads files with a header of {len(tokens)} counts"
    if any(b":" in token for token in tokens):
        return "; read_libsvm reads files without a header"
    return ""


def _counted(
    path: _lines.Path, first: _lines.Block, rest: Iterator[_lines.Block], count: int, rows: str
) -> Iterator[_lines.Block]:
    """Iterate over the header's number of lines; more or fewer are an error, except blank lines at the end."""
    remaining, last = count, 1
    block: _lines.Block | None = _lines.Block(2, first.lines[1:])
    while block is not None:
        for number, line in enumerate(block.lines[remaining:], block.number + remaining):
            if line.strip():
                _lines.fail(path, number, f"expected {count} {rows}, as the header says, got more")
        taken = block.lines[:remaining]
        remaining -= len(taken)
        last = block.number + len(taken) - 1 if taken else last
        if taken:
            yield _lines.Block(block.number, taken)
        block = next(rest, None)
    if remaining:
        _lines.fail(path, last, f"expected {count} {rows}, as the header says, got {count - remaining}")
