"""Multi-label ARFF: WEKA's format, with a list of the labels as in Mulan or MEKA."""

from __future__ import annotations

import errno
import os
import xml.etree.ElementTree as ElementTree
from array import array
from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np

from . import _arff_header as header
from . import _lines, _points
from .container import MultiLabelData

__all__ = ["read_arff"]


def read_arff(path: _lines.Path, labels: _lines.Path | Sequence[str] | int | None = None) -> MultiLabelData:
    """Read a multi-label ARFF file, dense or sparse.

    A nominal feature becomes the number of its value in the declared list, from 0, as in WEKA; if all values are
    numbers and the first is 0, it becomes the value itself.

    Args:
        path: the path of the ARFF file, plain or compressed by gzip, bzip2 or xz. Text that is not UTF-8 is read as
            Latin-1.
        labels: the attributes that are labels. A path: Mulan's XML list of their names. A sequence: their names. An
            int, as in MEKA: this number of attributes at the beginning, or, if negative, at the end. None (default):
            the XML file next to ``path`` that differs only in its suffix, or else MEKA's count in the relation's name
            (``@relation 'set: -C -6'``). Labels are numbered in the order of the list.

    Returns:
        Features float32 ``[rows, F]``, always sparse, targets, and the names of both.

    Raises:
        ImportError: SciPy is missing.
        OSError: a file cannot be opened.
        ValueError: a file is malformed: an attribute is neither numeric nor nominal, a label is not an attribute or
            has values other than 0 and 1, a value is missing (``?``), NaN or infinite, or a row has a wrong length or
            a weight. The error names file and line.

    Source:
        https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/

    Example:
        >>> import pathlib, tempfile
        >>> lines = ["@relation r", "@attribute x numeric", "@attribute red {0,1}", "@attribute 'dark blue' {0,1}"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "set.arff")
        ...     _ = path.write_text("\\n".join([*lines, "@data", "0.5,0,1", "{1 1}"]))
        ...     data = read_arff(path, ["red", "dark blue"])
        >>> data.features.toarray().tolist(), data.targets.to_dense().int().tolist()
        ([[0.5], [0.0]], [[0, 1], [1, 0]])
    """
    rows: _Rows | None = None
    declared, number = header.Header(), 1
    for block in _lines.blocks(path):
        for number, raw in enumerate(block.lines, block.number):
            line = header.without_comment(_text(raw)).strip()
            if not line:
                continue
            try:
                if rows is not None:
                    rows.add(line)
                elif declared.add(line):
                    rows = _Rows(declared, _label_names(path, labels, declared))
            except header.MalformedError as error:
                _lines.fail(path, number, str(error))
    if rows is None:
        _lines.fail(path, number, "the file ends before '@data'")
    return rows.data()


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _default_list(path: _lines.Path) -> FilePath:
    """Return the path of the list of labels that belongs to a file."""
    bare = FilePath(path)
    return (bare.with_suffix("") if bare.suffix in (".gz", ".bz2", ".xz") else bare).with_suffix(".xml")


def _label_names(
    path: _lines.Path, labels: _lines.Path | Sequence[str] | int | None, declared: header.Header
) -> list[str]:
    names = list(declared.attributes)
    if labels is None:
        labels = _default_list(path)
        if not labels.exists():
            if declared.labels is None:
                message = (
                    "no list of labels next to the file, and no count of them in the relation's name; pass labels="
                )
                raise FileNotFoundError(errno.ENOENT, message, str(labels))
            labels = declared.labels
    if isinstance(labels, bool):
        raise TypeError("labels: expected a path, names, an int or None, got bool")
    if isinstance(labels, int):
        if not 0 < abs(labels) <= len(names):
            raise ValueError(f"labels: expected 1 to {len(names)} attributes, got {labels}")
        return names[:labels] if labels > 0 else names[labels:]
    if isinstance(labels, (str, os.PathLike)):
        source, listed = os.fspath(labels), _listed(labels)
    elif isinstance(labels, Sequence):
        source, listed = "labels", list(labels)
    else:
        raise TypeError(f"labels: expected a path, names, an int or None, got {type(labels).__name__}")
    for name in listed:
        if name not in declared.attributes:
            raise ValueError(f"{source}: {name!r} is not an attribute of {os.fspath(path)}")
    if len(set(listed)) != len(listed):
        raise ValueError(f"{source}: expected each label once, got some twice")
    if not listed:
        raise ValueError(f"{source}: expected labels, got none")
    return listed


def _listed(path: _lines.Path) -> list[str]:
    content = FilePath(path).read_bytes()
    # XML that declares no encoding should be UTF-8, but some files are Latin-1.
    latin = b"encoding" not in content[:100] and _text(content) != content.decode("utf-8", "replace")
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(encoding="latin-1" if latin else None))
    except ElementTree.ParseError as error:
        _lines.fail(path, error.position[0], f"expected XML ({error})")
    return [each.get("name", "") for each in root.iter() if each.tag.rpartition("}")[2] == "label"]


class _Rows:
    """The rows read so far, in growing arrays."""

    def __init__(self, declared: header.Header, labels: Sequence[str]) -> None:
        self.attributes = list(declared.attributes.values())
        self.label_names = tuple(labels)
        label_number = {name: number for number, name in enumerate(labels)}
        self.feature_names = tuple(name for name in declared.attributes if name not in label_number)
        feature_number = {name: number for number, name in enumerate(self.feature_names)}
        # The feature's number for each attribute, or -1 - l for label l.
        self.places = [-1 - label_number[n] if n in label_number else feature_number[n] for n in declared.attributes]
        for name in labels:
            declared.attributes[name].check_label()
        self.inverted = [name for name in labels if declared.attributes[name].default]
        self.label_counts, self.labels = array("q"), array("q")
        self.feature_counts, self.columns, self.values = array("q"), array("q"), array("d")

    def add(self, line: str) -> None:
        sparse = line.startswith("{")
        if line.endswith("}") and not (sparse and line.count("{") == 1):
            header.check_weight(line)
        if sparse and self.inverted:
            raise header.MalformedError(
                f"label {self.inverted[0]!r}: expected {{0,1}}; with {{1,0}} a sparse row omits the ones"
            )
        pairs = header.sparse_pairs(line, len(self.attributes)) if sparse else enumerate(self._cells(line))
        labels, columns, values = [], [], []
        for number, cell in pairs:
            attribute, place = self.attributes[number], self.places[number]
            value = attribute.value(cell)
            if place >= 0:
                if value:
                    columns.append(place)
                    values.append(value)
            elif value == 1:
                labels.append(-1 - place)
            elif value != 0:
                raise header.MalformedError(f"label {attribute.name!r}: expected 0 or 1, got {cell!r}")
        self.label_counts.append(len(labels))
        self.feature_counts.append(len(columns))
        self.labels.extend(sorted(labels))
        if sparse:
            order = sorted(range(len(columns)), key=columns.__getitem__)
            columns, values = [columns[i] for i in order], [values[i] for i in order]
        self.columns.extend(columns)
        self.values.extend(values)

    def _cells(self, line: str) -> list[str]:
        cells = header.cells(line)
        if len(cells) != len(self.attributes):
            raise header.MalformedError(f"expected {len(self.attributes)} values, got {len(cells)}")
        return cells

    def data(self) -> MultiLabelData:
        integers = [np.array(each, np.int64) for each in (self.label_counts, self.labels, self.feature_counts)]
        columns, values = np.array(self.columns, np.int64), np.array(self.values, np.float64).astype(np.float32)
        points = _points.Points._make([*integers, columns, values])
        return _points.assemble(
            [points],
            len(self.feature_names),
            len(self.label_names),
            feature_names=self.feature_names,
            label_names=self.label_names,
        )
