"""A file's lines in blocks, plain or compressed, with their numbers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from . import _kinds

__all__ = ["BLOCK", "Block", "Path", "blocks", "fail"]

BLOCK = 1 << 22  # bytes of one read

Path = str | os.PathLike[str]


class Block(NamedTuple):
    """Whole lines without line ends; the first is line ``number`` of its file, counted from 1."""

    number: int
    lines: list[bytes]


def fail(path: Path, number: int, message: str) -> NoReturn:
    """Raise an error that names file and line."""
    raise ValueError(f"{os.fspath(path)}, line {number}: {message}")


def blocks(path: Path, warns: bool = False) -> Iterator[Block]:
    """Iterate over the file's lines in blocks of a few megabytes. A newline at the very end begins no line.

    Args:
        path: the path of the file.
        warns: warn about a last line without an end; for formats in which a truncated line can look complete.

    A byte-order mark of UTF-8 is skipped.

    Raises:
        ValueError: compressed data are damaged or cut off, or the file is not text.
    """
    number, rest = 1, b""
    file, compression = _kinds.open_file(path)
    with file:
        first = True
        while True:
            try:
                read = file.read(BLOCK)
            except Exception as error:
                if compression is None or not _kinds.is_damage(error):
                    raise
                where = number + rest.count(b"\n")
                fail(path, where, f"the {compression.name} data end too soon or are damaged ({error})")
            if first:
                read, first = _checked(path, read), False
            if not read:
                break
            complete, end, rest = (rest + read).rpartition(b"\n")
            if end:
                lines = _split(complete)
                yield Block(number, lines)
                number += len(lines)
        if rest:
            if warns and compression is None:  # truncated compressed data raise an error
                message = "the last line has no newline; if the file was cut off, part of a row is missing"
                warnings.warn(f"{os.fspath(path)}, line {number}: {message}", UserWarning, stacklevel=2)
            yield Block(number, _split(rest))


def _split(text: bytes) -> list[bytes]:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    return text.split(b"\n")


def _checked(path: Path, start: bytes) -> bytes:
    """Check that a file begins as text, and remove its byte-order mark."""
    start = start.removeprefix(_kinds.BOM)
    kind = _kinds.foreign(start[:512])
    if kind is not None:
        fail(path, 1, f"expected text, got {kind}")
    return start
