"""The kind of a file by its first bytes: plain text, compressed text, or a format that is not supported."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple

__all__ = ["BOM", "Compression", "foreign", "is_damage", "open_file"]

BOM = b"\xef\xbb\xbf"  # the byte-order mark of UTF-8
# Damaged or truncated compressed data raise these; bz2 also raises an OSError without a number.
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Compression(NamedTuple):
    """A supported compression."""

    name: str
    open: Callable[..., Any]


_COMPRESSED = (
    (b"\x1f\x8b", Compression("gzip", gzip.open)),
    (b"BZh", Compression("bzip2", bz2.open)),
    (b"\xfd7zXZ\x00", Compression("xz", lzma.open)),
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (or NumPy's .npz); unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstandard; decompress it"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)
_PAGES = (b"<!doctype html", b"<html")


def foreign(first: bytes) -> str | None:
    """Return a description of the file's format, or None if it looks like text."""
    for magic, name in _FOREIGN:
        if first.startswith(magic):
            return name
    if first[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if first.lstrip().lower().startswith(_PAGES):
        return "an HTML page, possibly from a failed download"
    if b"\0" in first.partition(b"\n")[0]:
        return "binary data"
    return None


def is_damage(error: Exception) -> bool:
    """Return whether the error is about the compressed data, and not about the disk."""
    return isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None)


def open_file(path: Any) -> tuple[IO[bytes], Compression | None]:
    """Open a file, decompressed as it is read, and return it with its compression, recognised by the content."""
    with open(path, "rb") as file:
        first = file.read(6)
    compression = next((each for magic, each in _COMPRESSED if first.startswith(magic)), None)
    return (open if compression is None else compression.open)(path, "rb"), compression
