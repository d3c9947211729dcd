"""The kind of a file, by its first bytes: plain text, compressed text, or something that is neither."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple

__all__ = ["BOM", "Compression", "foreign", "is_damage", "open_file"]

BOM = b"\xef\xbb\xbf"  # of UTF-8
# Damaged or truncated compressed data raise these; bz2 has an OSError without a number too.
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Compression(NamedTuple):
    """A format that is read."""

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
    (b"\x93NUMPY", "an array of NumPy (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
    (b"\x80\x02", "a pickle of Python's"),
    (b"\x80\x03", "a pickle of Python's"),
    (b"\x80\x04", "a pickle of Python's"),
    (b"\x80\x05", "a pickle of Python's"),
)
_PAGES = (b"<!doctype html", b"<html")


def foreign(first: bytes) -> str | None:
    """The name of the format that the bytes begin, if that is not text of numbers."""
    for magic, name in _FOREIGN:
        if first.startswith(magic):
            return name
    if first[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if first.lstrip().lower().startswith(_PAGES):
        return "a page of HTML, as a download that failed leaves it"
    if b"\0" in first.partition(b"\n")[0]:
        return "binary data"
    return None


def is_damage(error: Exception) -> bool:
    """Whether reading failed for the compressed data's sake, and not the disk's."""
    return isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None)


def open_file(path: Any) -> tuple[IO[bytes], Compression | None]:
    """The file, decompressed as it is read, and its compression: known by the content, whatever the file's name."""
    with open(path, "rb") as file:
        first = file.read(6)
    compression = next((each for magic, each in _COMPRESSED if first.startswith(magic)), None)
    return (open if compression is None else compression.open)(path, "rb"), compression
