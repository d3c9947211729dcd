"""ARFF's declarations, and the splitting of its lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["Attribute", "Header", "MalformedError", "cells", "check_weight", "sparse_pairs", "without_comment"]

_LARGEST = 3.4028234663852886e38  # the largest float32
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NAME_AND_TYPE = re.compile(rf"({_QUOTED}|[^\s{{]+)(?:\s+|(?={{))(.+)", re.DOTALL)
_CELL = re.compile(rf"\s*({_QUOTED}|[^,'\"]*?)\s*(,|$)")
_PAIR = re.compile(rf"\s*(\d+)\s+({_QUOTED}|[^\s,'\"]+)\s*(,|$)")
_NUMERIC = ("numeric", "real", "integer")
_BEFORE_COMMENT = re.compile(rf"(?:{_QUOTED}|[^%])*")
_WEIGHT = re.compile(r"(?:,|\s)\s*(\{[^{}]*\})$")
# MEKA's option with the number of labels; labels are the first attributes or, if it is negative, the last.
_LABEL_COUNT = re.compile(r"(?:^|[\s:])-[cC]\s+(-?\d+)(?=\s|$)")


class MalformedError(Exception):
    """An error in a line; the caller adds the line's number."""


class Attribute:
    """A column: numeric, or nominal with values that stand for numbers."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.default = 0.0  # the value if a sparse row does not name the attribute
        self.codes: dict[str, float] | None = None
        self.values: list[str] = []
        if kind.lower() in _NUMERIC:
            return
        if not (kind.startswith("{") and kind.endswith("}")):
            raise MalformedError(f"attribute {name!r}: expected a numeric or a nominal one, got {kind!r}")
        self.values = cells(kind[1:-1])
        numbers = [_number(value) for value in self.values]
        if None in numbers or numbers[0] != 0:
            numbers = [float(place) for place in range(len(self.values))]
        self.codes = {value: number for value, number in zip(self.values, numbers, strict=True) if number is not None}
        if len(self.codes) != len(self.values):
            raise MalformedError(f"attribute {name!r}: expected each value once, got {kind!r}")

    def check_label(self) -> None:
        """Check that a label's values are 0 and 1, in either order, and map each to its number."""
        if self.codes is None:
            return
        if not set(self.values) <= {"0", "1"}:
            raise MalformedError(f"label {self.name!r}: expected values {{0,1}}, got {{{','.join(self.values)}}}")
        self.default = float(self.values[0])
        self.codes = {value: float(value) for value in self.values}

    def value(self, cell: str) -> float:
        """Convert a cell to a number."""
        if self.codes is not None:
            number = self.codes.get(cell)
            if number is None:
                expected = ", ".join(self.values[:8]) + (", ..." if len(self.values) > 8 else "")
                raise MalformedError(_unexpected(self.name, f"one of {expected}", cell))
            return number
        number = _number(cell)
        if number is None:
            raise MalformedError(_unexpected(self.name, "a finite number in the range of float32", cell))
        return number


def _unexpected(name: str, expected: str, cell: str) -> str:
    missing = " (a missing value)" if cell == "?" else ""
    return f"attribute {name!r}: expected {expected}, got {cell!r}{missing}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= _LARGEST and "_" not in text else None


class Header:
    """The declarations of a file, read line by line."""

    def __init__(self) -> None:
        self.attributes: dict[str, Attribute] = {}
        self.labels: int | None = None  # MEKA's number of labels in the relation's name

    def add(self, line: str) -> bool:
        """Read a line, and return whether the data begin after it."""
        word, _, rest = line.replace("\t", " ").partition(" ")
        word = word.lower()
        if word == "@data":
            if not self.attributes:
                raise MalformedError("expected attributes before '@data', got none")
            return True
        if word == "@attribute":
            match = _NAME_AND_TYPE.fullmatch(rest.strip())
            if match is None:
                raise MalformedError(f"expected '@attribute name type', got {line[:60]!r}")
            name = _plain(match[1])
            if name in self.attributes:
                raise MalformedError(f"attribute {name!r} is declared twice")
            self.attributes[name] = Attribute(name, match[2].strip())
        elif word == "@relation":
            match = _LABEL_COUNT.search(_plain(rest.strip()))
            self.labels = None if match is None else int(match[1])
        else:
            raise MalformedError(f"expected '@relation', '@attribute' or '@data', got {line[:60]!r}")
        return False


def _plain(text: str) -> str:
    """Remove quotes and escapes."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def without_comment(line: str) -> str:
    """Return the text before a ``%`` that is not in quotes."""
    if "%" not in line:
        return line
    match = _BEFORE_COMMENT.match(line)
    return line[: match.end()].rstrip() if match else line


def check_weight(line: str) -> None:
    """Raise an error if a row ends in its weight, such as ``{5}``, which is not supported."""
    match = _WEIGHT.search(line)
    if match is not None:
        raise MalformedError(f"an instance's weight, {match[1]}, which is not read: remove the weights from the file")


def cells(line: str) -> list[str]:
    """Split a line at its commas."""
    if "'" not in line and '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    found, place = [], 0
    while True:
        match = _CELL.match(line, place)
        if match is None:
            raise MalformedError(f"a quote that does not end, or text next to one: {line[place : place + 60]!r}")
        found.append(_plain(match[1]))
        place = match.end()
        if not match[2]:
            return found


def sparse_pairs(line: str, attributes: int) -> Iterator[tuple[int, str]]:
    """Iterate over the numbers and values of ``{number value, number value}``."""
    if not line.endswith("}"):
        raise MalformedError(f"expected '{{number value, ...}}', got a line that ends in {line[-20:]!r}")
    body, seen = line[1:-1].strip(), set[int]()
    place = 0
    while place < len(body):
        match = _PAIR.match(body, place)
        if match is None or (match[3] and match.end() == len(body)):
            raise MalformedError(f"expected 'number value', got {body[place : place + 60]!r}")
        number, place = int(match[1]), match.end()
        if number >= attributes or number in seen:
            problem = "twice" if number in seen else f"of {attributes}, numbered from 0"
            raise MalformedError(f"attribute {number} {problem}")
        seen.add(number)
        yield number, _plain(match[2])
