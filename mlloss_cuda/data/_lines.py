"""A file's lines in blocks, plain or compressed, with their numbers."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, NoReturn

__all__ = ["BLOCK", "Block", "Path", "blocks", "fail"]

BLOCK = 1 << 22  # bytes that are read at once
_GZIP = b"\x1f\x8b"

Path = str | os.PathLike[str]


class Block(NamedTuple):
    """Whole lines, without their ends; the first is line ``number`` of its file, counted from 1."""

    number: int
    lines: list[bytes]


def fail(path: Path, number: int, message: str) -> NoReturn:
    """Say where a file is wrong."""
    raise ValueError(f"{os.fspath(path)}, line {number}: {message}")


def blocks(path: Path, warns: bool = False) -> Iterator[Block]:
    """The file's lines, some megabytes at a time. A newline at the very end begins no line.

    Args:
        path: of the file.
        warns: of a last line without an end. For formats whose lines do not tell that they are whole.

    Raises:
        ValueError: compressed data are damaged or cut off.
    """
    number, rest = 1, b""
    with _open(path) as file:
        while True:
            try:
                read = file.read(BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                fail(path, number + rest.count(b"\n"), f"the gzip data end too soon or are damaged ({error})")
            if not read:
                break
            complete, end, rest = (rest + read).rpartition(b"\n")
            if end:
                lines = _split(complete)
                yield Block(number, lines)
                number += len(lines)
        if rest:
            if warns and not isinstance(file, gzip.GzipFile):  # which knows where it ends
                told = "the last line has no newline; if the file was cut off, part of a row is missing"
                warnings.warn(f"{os.fspath(path)}, line {number}: {told}", UserWarning, stacklevel=2)
            yield Block(number, _split(rest))


def _split(text: bytes) -> list[bytes]:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    return text.split(b"\n")


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    with open(path, "rb") as file:
        compressed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if compressed else open(path, "rb")
