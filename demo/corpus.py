"""A multi-label data set that every machine has: the Python packages that are installed on it.

A row is a documented function. Its features are the hashed words of its docstring and name, its labels the identifiers
that its body uses. This module imports no torch, since worker processes import it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import sys
import sysconfig
import time
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT_PACKAGES = ("stdlib", "torch", "sympy", "numpy", "networkx", "matplotlib")
BUCKETS = 1 << 16  # hashed words share this many embedding rows
MAX_WORDS = 256  # a function's limit: a few docstrings are manuals of thousands of words
HELD_OUT_PERCENT = 10
CACHE_FORMAT = 2  # raise it when a row's content changes, so that older caches are not used
IGNORED_NAMES = frozenset({"self", "cls", "_"})  # nearly every body has these, so that there is nothing to predict

# The standard library's folder also holds what pip installed. Few functions of tests are documented, and their files
# would take a third of the time.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # splits snake_case and camelCase alike


class CorpusError(Exception):
    """The corpus cannot be built, for a reason the user can act on."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, in CSR form."""

    crow: np.ndarray
    col: np.ndarray

    def __len__(self) -> int:
        return len(self.crow) - 1

    def row(self, index: int) -> np.ndarray:
        return self.col[self.crow[index] : self.crow[index + 1]]

    def take(self, rows: np.ndarray) -> Ragged:
        lengths = np.diff(self.crow)[rows]
        crow = _offsets(lengths)
        positions = np.repeat(self.crow[rows] - crow[:-1], lengths) + np.arange(crow[-1])
        return Ragged(crow, self.col[positions])

    def keep_columns(self, new_column: np.ndarray) -> Ragged:
        """Renumber the columns, drop those whose new number is negative, and sort each row."""
        column = new_column[self.col]
        row = np.repeat(np.arange(len(self)), np.diff(self.crow))[column >= 0]
        column = column[column >= 0]
        order = np.lexsort((column, row))
        return Ragged(_offsets(np.bincount(row, minlength=len(self))), column[order])


@dataclass(frozen=True)
class Corpus:
    """Every documented function with every identifier, before the split and the choice of labels."""

    words: Ragged  # row -> hashed words
    names: Ragged  # row -> numbers into `vocabulary`
    vocabulary: list[str]
    functions: list[str]  # row -> function name
    summaries: list[str]  # row -> first line of the docstring
    file_of_row: np.ndarray
    files: list[str]  # "torch/nn/functional.py"
    unparsable: int  # files that are not Python of this version: test data, mostly

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Split:
    """Rows split by file, and labels chosen from the training rows alone."""

    train: np.ndarray
    held_out: np.ndarray
    labels: list[str]
    targets: Ragged  # all rows of the corpus, columns numbered as in `labels`


# --- finding files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    root: Path


def find_package(name: str) -> Package | None:
    """Find a top-level package without importing it; "stdlib" is Python's own."""
    if name == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return Package(name, platform.python_version(), root) if root.is_dir() else None
    if not name.isidentifier():
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    if not root.is_dir():
        return None
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "?"
    return Package(name, version, root)


def find_packages(wanted: Sequence[str] | None) -> list[Package]:
    """Return the wanted packages; by default, those of DEFAULT_PACKAGES that are installed."""
    found = {name: find_package(name) for name in wanted or DEFAULT_PACKAGES}
    missing = [name for name, package in found.items() if package is None]
    if wanted and missing:
        raise CorpusError(
            f"no installed package called {', '.join(missing)} "
            '(top-level import names, such as "numpy"; Python\'s own library is "stdlib")'
        )
    return [package for package in found.values() if package is not None]


def _python_files(package: Package) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(package.root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for file in sorted(files):
            if file.endswith(".py"):
                yield Path(folder, file)


def _list_files(packages: Sequence[Package], max_files: int | None) -> list[tuple[str, Path]]:
    files = [
        (f"{package.name}/{path.relative_to(package.root).as_posix()}", path)
        for package in packages
        for path in _python_files(package)
    ]
    if max_files is not None and len(files) > max_files:
        files = [files[i * len(files) // max_files] for i in range(max_files)]
    return files


# --- reading one file -----------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text) if len(word) > 1]


def hash_words(function: str, docstring: str) -> list[int]:
    """Return the buckets of the words, each once. Python's own hash changes with each run; CRC-32 does not."""
    words = [f"name:{word}" for word in _words(function)] + _words(docstring)
    unique = list(dict.fromkeys(words))[:MAX_WORDS]
    return list(dict.fromkeys(zlib.crc32(word.encode()) % BUCKETS for word in unique))


def _identifiers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = set()
    for statement in function.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
    return sorted(names - IGNORED_NAMES)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a file. Only statements are visited: expressions, most of a tree, contain none."""
    pending: deque[ast.AST] = deque([tree])
    while pending:
        node = pending.popleft()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            pending.extend(getattr(node, field, ()))


Row = tuple[str, str, list[int], list[str]]  # name, summary, words, identifiers


def read_file(path: Path) -> list[Row] | None:
    """Return the documented functions of one file, or None if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for invalid escapes in the packages' strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return None
    rows = []
    for node in _functions(tree):
        docstring = ast.get_docstring(node) or ""
        words = hash_words(node.name, docstring) if docstring else []
        identifiers = _identifiers(node) if words else []
        if words and identifiers:
            first_paragraph = " ".join(docstring.split("\n\n")[0].split())
            # Control characters and lone surrogates do not belong in a terminal.
            summary = "".join(filter(str.isprintable, first_paragraph))[:200]
            rows.append((node.name, summary, words, identifiers))
    return rows


# --- the whole corpus -----------------------------------------------------------------------------


class ProgressBar:
    """A progress bar on a terminal; in a log or a pipe, a line at every quarter."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.start = time.perf_counter()
        self.tty = sys.stdout.isatty()
        self.shown = -1

    def update(self, done: int) -> None:
        steps = 200 if self.tty else 4
        step = steps * done // max(self.total, 1)
        if step == self.shown:
            return
        self.shown = step
        seconds = time.perf_counter() - self.start
        if self.tty:
            full = 30 * done // max(self.total, 1)
            bar = "#" * full + "." * (30 - full)
            end = "\n" if done >= self.total else ""
            print(f"\r{self.title} [{bar}] {done:,}/{self.total:,}  {seconds:4.0f} s", end=end)
        elif step:
            print(f"{self.title} {done:,}/{self.total:,}  {seconds:.0f} s")
        sys.stdout.flush()


def build(files: Sequence[tuple[str, Path]], workers: int) -> Corpus:
    """Parse the files in worker processes; the result does not depend on their number."""
    bar = ProgressBar("  parsing", len(files))
    rows: list[Row] = []
    file_of_row: list[int] = []
    unparsable = 0
    seen: set[tuple[str, str, tuple[int, ...], tuple[str, ...]]] = set()
    # "spawn", because a fork of a process that has run OpenMP threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        parsed = pool.map(read_file, [path for _, path in files], chunksize=32)
        for number, result in enumerate(parsed):
            bar.update(number + 1)
            if result is None:
                unparsable += 1
                continue
            for row in result:
                key = (row[0], row[1], tuple(row[2]), tuple(row[3]))
                if key not in seen:  # a vendored copy would leak into the held-out rows
                    seen.add(key)
                    rows.append(row)
                    file_of_row.append(number)
    vocabulary = sorted({name for row in rows for name in row[3]})
    index = {name: i for i, name in enumerate(vocabulary)}
    return Corpus(
        words=_ragged(row[2] for row in rows),
        names=_ragged([index[name] for name in row[3]] for row in rows),
        vocabulary=vocabulary,
        functions=[row[0] for row in rows],
        summaries=[row[1] for row in rows],
        file_of_row=np.asarray(file_of_row, np.int32),
        files=[name for name, _ in files],
        unparsable=unparsable,
    )


def load(
    packages: Sequence[Package],
    cache_folder: Path,
    *,
    max_files: int | None = None,
    workers: int | None = None,
) -> tuple[Corpus, str]:
    """Return the corpus, from the cache if it is fresh, and a phrase that says where it came from."""
    files = _list_files(packages, max_files)
    if not files:
        raise CorpusError("the chosen packages hold no Python source files")
    cache = cache_folder / f"corpus-{_fingerprint(packages, files)}.npz"
    if cache.exists():
        try:
            return _read_cache(cache), f"read from {_shown(cache)}"
        except Exception as error:  # any damage: the cache can be built again
            print(f"  {_shown(cache)} is unreadable ({_first_line(error)}): building it again")
    start = time.perf_counter()
    corpus = build(files, workers or min(os.cpu_count() or 1, 8))
    if not len(corpus):
        raise CorpusError("the chosen packages hold no documented functions")
    note = f"parsed in {time.perf_counter() - start:.0f} s"
    try:
        _write_cache(cache, corpus)
    except OSError as error:
        return corpus, f"{note}, not cached ({_first_line(error)})"
    return corpus, f"{note}, cached in {_shown(cache)}"


def split(corpus: Corpus, num_labels: int | None, floor: int, seed: int) -> Split:
    """Hold out whole files, so that a function's near-copies stay on one side.

    The labels are the identifiers that at least two training functions use, or the `num_labels`
    most frequent; never fewer than `floor` while there are more.
    """
    held_out_file = np.array([zlib.crc32(f"{seed}:{name}".encode()) % 100 < HELD_OUT_PERCENT for name in corpus.files])
    is_held_out = held_out_file[corpus.file_of_row]
    train, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    counts = np.bincount(corpus.names.take(train).col, minlength=len(corpus.vocabulary))
    by_frequency = np.argsort(-counts, kind="stable")
    if num_labels is None:
        num_labels = max(int((counts >= 2).sum()), floor)
    num_labels = min(num_labels, int((counts >= 1).sum()))
    chosen = np.sort(by_frequency[:num_labels])
    new_column = np.full(len(corpus.vocabulary), -1, np.int32)
    new_column[chosen] = np.arange(num_labels, dtype=np.int32)
    targets = corpus.names.keep_columns(new_column)
    has_label = np.diff(targets.crow) > 0
    return Split(
        train[has_label[train]],
        held_out[has_label[held_out]],
        [corpus.vocabulary[i] for i in chosen],
        targets,
    )


# --- the cache ------------------------------------------------------------------------------------


def _fingerprint(packages: Sequence[Package], files: Sequence[tuple[str, Path]]) -> str:
    digest = hashlib.sha256(f"{CACHE_FORMAT} {platform.python_version()}\n".encode())
    for package in packages:
        digest.update(f"{package.name} {package.version}\n".encode())
    for name, path in files:
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write_cache(path: Path, corpus: Corpus) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    try:
        np.savez_compressed(
            partial,
            words_crow=corpus.words.crow,
            words_col=corpus.words.col,
            names_crow=corpus.names.crow,
            names_col=corpus.names.col,
            vocabulary=_pack(corpus.vocabulary),
            functions=_pack(corpus.functions),
            summaries=_pack(corpus.summaries),
            file_of_row=corpus.file_of_row,
            files=_pack(corpus.files),
            unparsable=np.int64(corpus.unparsable),
        )
        partial.replace(path)  # at once, so that no reader sees half a file
    finally:
        partial.unlink(missing_ok=True)


def _read_cache(path: Path) -> Corpus:
    with np.load(path, allow_pickle=False) as stored:
        corpus = Corpus(
            words=Ragged(stored["words_crow"], stored["words_col"]),
            names=Ragged(stored["names_crow"], stored["names_col"]),
            vocabulary=_unpack(stored["vocabulary"]),
            functions=_unpack(stored["functions"]),
            summaries=_unpack(stored["summaries"]),
            file_of_row=stored["file_of_row"],
            files=_unpack(stored["files"]),
            unparsable=int(stored["unparsable"]),
        )
    rows = {
        len(corpus.words),
        len(corpus.names),
        len(corpus.functions),
        len(corpus.summaries),
        len(corpus.file_of_row),
    }
    if len(rows) != 1:
        raise ValueError("its arrays disagree on the number of rows")
    return corpus


def _pack(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\n".join(texts).encode("utf-8", "replace"), np.uint8)


def _unpack(packed: np.ndarray) -> list[str]:
    return packed.tobytes().decode("utf-8").split("\n")


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _ragged(rows: Iterable[Sequence[int]]) -> Ragged:
    rows = list(rows)
    col = [value for row in rows for value in row]
    return Ragged(_offsets(np.array([len(row) for row in rows])), np.asarray(col, np.int32))


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
