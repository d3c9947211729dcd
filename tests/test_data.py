"""Readers of data sets, batches of sparse rows, and statistics of labels."""

from __future__ import annotations

import bz2
import gzip
import lzma
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader

from mlloss_cuda import CSRTargets, LinearLoss, ZLPRLoss
from mlloss_cuda.data import (
    MultiLabelData,
    _lines,
    cooccurrence,
    csr_collate,
    iter_xmc,
    label_embeddings,
    read_arff,
    read_label_pairs,
    read_libsvm,
    read_sparse_matrix,
    read_xmc,
    read_xmc_matrices,
)

from .new_process import run_python

ROWS, FEATURES, LABELS = 40, 30, 12
COMPRESS: dict[str, Any] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def dense(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and targets, in which some rows have no features or no labels."""
    x = torch.randn(ROWS, FEATURES, generator=generator)
    x[torch.rand(ROWS, FEATURES, generator=generator) < 0.8] = 0
    y = (torch.rand(ROWS, LABELS, generator=generator) < 0.2).int()
    x[0], y[1], x[-1], y[-1] = 0, 0, 0, 0
    return x, y


def points(x: torch.Tensor, y: torch.Tensor, base: int = 0) -> list[str]:
    """Return lines as in files, with labels and features in descending order."""
    lines = []
    for features, labels in zip(x, y, strict=True):
        heads = ",".join(str(i) for i in reversed(labels.nonzero()[:, 0].tolist()))
        pairs = [f"{i + base}:{features[i].item()!r}" for i in reversed(features.nonzero()[:, 0].tolist())]
        lines.append(f"{heads} {' '.join(pairs)}")
    return lines


def assert_is(data: MultiLabelData, x: torch.Tensor, y: torch.Tensor) -> None:
    assert data.features.dtype == np.float32
    assert data.features.indptr.dtype == np.int64
    assert torch.equal(torch.from_numpy(data.features.toarray()), x)
    assert torch.equal(data.targets.to_dense().int(), y)
    # The constructor checks that indices are sorted and unique.
    CSRTargets(data.targets.crow_indices, data.targets.col_indices, data.targets.num_labels, validate=True)
    row = data.features.copy()
    row.sort_indices()
    assert row.indices.tolist() == data.features.indices.tolist()


def written(tmp_path: Path, text: str, name: str = "set.txt", cut: bool = False) -> Path:
    path = tmp_path / name
    text = text if cut or text.endswith("\n") else f"{text}\n"
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(text.encode()))
    return path


class TestXmc:
    @pytest.mark.parametrize("block", (7, 100, 1 << 22))
    @pytest.mark.parametrize("name", ("a.txt", "a.txt.gz", "a.txt.bz2", "a.txt.xz"))
    @pytest.mark.parametrize("end", ("\n", "\r\n"))
    def test_reads(self, tmp_path: Path, dense: Any, monkeypatch: Any, block: int, name: str, end: str) -> None:
        monkeypatch.setattr(_lines, "BLOCK", block)
        text = end.join([f"{ROWS} {FEATURES} {LABELS}", *points(*dense), ""])
        path = written(tmp_path, text, name)
        assert_is(read_xmc(path), *dense)
        path = written(tmp_path, text.removesuffix(end), name, cut=True)
        # Compressed data mark their end.
        warns = pytest.warns(UserWarning, match=rf"a\.txt, line {ROWS + 1}: the last line has no newline")
        with warns if name == "a.txt" else nullcontext():
            assert_is(read_xmc(path), *dense)
        assert_is(read_xmc(written(tmp_path, text + 2 * end, name)), *dense)

    @pytest.mark.parametrize("size", (1, 7, ROWS, 1000))
    def test_batches(self, tmp_path: Path, dense: Any, monkeypatch: Any, size: int) -> None:
        monkeypatch.setattr(_lines, "BLOCK", 300)
        x, y = dense
        path = written(tmp_path, "\n".join([f"{ROWS} {FEATURES} {LABELS}", *points(x, y)]))
        batches = list(iter_xmc(str(path), size))
        assert [len(batch) for batch in batches] == [len(part) for part in x.split(size)]
        for batch, *part in zip(batches, x.split(size), y.split(size), strict=True):
            assert_is(batch, *part)

    def test_reads_on_demand(self, tmp_path: Path, monkeypatch: Any) -> None:
        """Lines behind the first block are not read before they are needed, so neither held nor checked."""
        monkeypatch.setattr(_lines, "BLOCK", 200)
        lines = ["100 5 5", *(["1 2:0.5"] * 80), "wrong", *(["1 2:0.5"] * 19)]
        batches = iter_xmc(written(tmp_path, "\n".join(lines)), 5)
        assert len(next(batches)) == 5
        with pytest.raises(ValueError, match=r"set.txt, line 82: expected labels as 'l1,l2', got 'wrong'"):
            list(batches)

    def test_corners(self, tmp_path: Path) -> None:
        """Lines without labels (with or without the space), features, or both; duplicate labels, exponents, tabs."""
        text = "7 4 9\n 1:2\n1:2\n3,4\n\n8,8,0 3:-1e-3 0:+.5\n5\t2:7 \n 0:1"
        data = read_xmc(written(tmp_path, text))
        rows = data.targets.to_dense()
        assert [row.nonzero()[:, 0].tolist() for row in rows] == [[], [], [3, 4], [], [0, 8], [5], []]
        expected = torch.zeros(7, 4)
        expected[0, 1] = expected[1, 1] = 2
        expected[4, 3], expected[4, 0], expected[5, 2], expected[6, 0] = -1e-3, 0.5, 7, 1
        assert torch.equal(torch.from_numpy(data.features.toarray()), expected)
        assert len(read_xmc(written(tmp_path, "0 4 9\n"))) == 0

    @pytest.mark.parametrize(
        "line,message",
        (
            ("-1 0:1", "label -1: expected at least 0 and at most 8"),
            ("9 0:1", "label 9: expected at least 0 and at most 8"),
            ("1 4:1", "feature 4: expected at least 0 and at most 3"),
            ("1 -1:1", "feature -1"),
            ("1 0:nan", "finite numbers, got '0:nan'"),
            ("1 0:inf", "finite numbers"),
            ("1 0:1e39", "beyond float32"),
            ("1 0:1e999", "beyond float32"),
            ("1 0:1 0:2", "a feature occurs twice"),
            ("1 0:", "expected features"),
            ("1 :1", "expected features"),
            ("1 0", "expected features"),
            ("1 0:1:2 3", "expected features"),
            ("1 0:1 :2", "expected features"),
            ("1 1.0:2", "expected features"),
            ("1 1:2-3", "expected features"),
            ("1 1:1_0", "expected features"),
            ("1,,2 0:1", "expected labels"),
            (",1 0:1", "expected labels"),
            ("1.5 0:1", "expected labels"),
            ("1-2 0:1", "expected labels"),
            ("99999999999999999999 0:1", "int"),
            ("\0\0\0 0:1", "expected labels"),
        ),
    )
    def test_malformed_line(self, tmp_path: Path, monkeypatch: Any, line: str, message: str) -> None:
        """The error names file and line, wherever blocks end."""
        lines = ["20 4 9", *(["1,2 0:1 3:2"] * 13), line, *(["3 1:1"] * 6)]
        for block in (11, 1 << 22):
            monkeypatch.setattr(_lines, "BLOCK", block)
            with pytest.raises(ValueError, match=rf"set\.txt, line 15: .*{message}"):
                read_xmc(written(tmp_path, "\n".join(lines)))

    @pytest.mark.parametrize("read", (read_xmc, read_libsvm))
    def test_truncated_last_row(self, tmp_path: Path, read: Any) -> None:
        """A cut row gives an error or a warning, even if the rest is a valid row."""
        text = ("1 6 5\n" if read is read_xmc else "") + "3,4 1:0.5 5:7.125\n"
        read(written(tmp_path, text))
        for size in range(text.index("3,4") + 1, len(text)):
            with pytest.raises((ValueError, UserWarning), match=r"set\.txt, line \d: "):
                read(written(tmp_path, text[:size], cut=True))

    @pytest.mark.parametrize("header", ("", "1 2", "1 2 3 4", "1 2 x", "-1 2 3", "1.0 2 3", "1 0:1"))
    def test_malformed_header(self, tmp_path: Path, header: str) -> None:
        with pytest.raises(ValueError, match=r"line 1: expected 'num_points num_features num_labels'"):
            read_xmc(written(tmp_path, f"{header}\n1 0:1\n"))

    def test_header_beyond_64_bits(self, tmp_path: Path) -> None:
        for header in (f"{1 << 63} 1 1", f"0 {1 << 63} 1", f"0 1 {10**20}"):
            with pytest.raises(ValueError, match=r"set\.txt, line 1: expected counts below 2\*\*63"):
                read_xmc(written(tmp_path, f"{header}\n"))

    def test_wrong_count(self, tmp_path: Path, monkeypatch: Any) -> None:
        for block in (5, 1 << 22):
            monkeypatch.setattr(_lines, "BLOCK", block)
            with pytest.raises(ValueError, match=r"line 3: expected 3 points, as the header says, got 2"):
                read_xmc(written(tmp_path, "3 1 2\n0 0:1\n1 0:1\n"))
            with pytest.raises(ValueError, match=r"line 5: expected 1 points, as the header says, got more"):
                read_xmc(written(tmp_path, "1 1 2\n0 0:1\n\n\n1 0:1\n"))

    @pytest.mark.parametrize("suffix,name", ((".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz")))
    def test_truncated_files(self, tmp_path: Path, dense: Any, suffix: str, name: str) -> None:
        """A truncated compressed file is never read as if it were whole, and the error names the format."""
        lines = [f"{ROWS} {FEATURES} {LABELS}", *points(*dense)]
        path = written(tmp_path, "\n".join(lines), f"a.txt{suffix}")
        whole = path.read_bytes()
        for size in [*range(0, len(whole), 19), len(whole) - 1]:
            path.write_bytes(whole[:size])
            message = rf"a\.txt\{suffix}, line \d+: " + (f"the {name} data end too soon" if size > 12 else "")
            with pytest.raises(ValueError, match=message):
                read_xmc(path)
        path.write_bytes(whole[:60] + bytes(40) + whole[100:])
        with pytest.raises(ValueError, match=rf"a\.txt\{suffix}, line \d+: the {name} data .* are damaged"):
            read_xmc(path)

    def test_arguments(self, tmp_path: Path) -> None:
        path = written(tmp_path, "0 1 1\n")
        with pytest.raises(FileNotFoundError):
            read_xmc(tmp_path / "nothing.txt")
        with pytest.raises(TypeError, match="batch_size: expected an int"):
            iter_xmc(path, 1.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
            iter_xmc(path, 0)


class TestLibsvm:
    def test_reads(self, tmp_path: Path, dense: Any) -> None:
        x, y = dense
        # A row without labels and features would be a blank line.
        keep = (x != 0).any(1) | (y != 0).any(1)
        x, y = x[keep], y[keep]
        path = written(tmp_path, "\n".join(["# nothing", *points(x, y, 1), "", "   # nothing"]))
        assert_is(read_libsvm(path, num_features=FEATURES, num_labels=LABELS), x, y)
        data = read_libsvm(path)
        seen = (int(x.any(0).nonzero().max()) + 1, int(y.any(0).nonzero().max()) + 1)
        assert_is(data, x[:, : seen[0]], y[:, : seen[1]])
        path = written(tmp_path, "\n".join(points(x, y)))
        assert_is(read_libsvm(path, num_features=FEATURES, num_labels=LABELS, one_based=False), x, y)

    def test_bases(self, tmp_path: Path) -> None:
        path = written(tmp_path, "1,3 1:2  # a note\n")
        data = read_libsvm(path, one_based_labels=True)
        assert data.targets.col_indices.tolist() == [0, 2]
        assert data.features.toarray().tolist() == [[2.0]]
        with pytest.raises(ValueError, match=r"line 2: feature 0: expected at least 1; one_based=False"):
            read_libsvm(written(tmp_path, "0 1:1\n0 0:1\n"))
        with pytest.raises(ValueError, match=r"line 3: label 3: expected at least 0 and at most 2"):
            read_libsvm(written(tmp_path, "0 1:1\n\n3 1:1\n"), num_labels=3)
        with pytest.raises(ValueError, match=r"line 1: label 0: expected at least 1"):
            read_libsvm(written(tmp_path, "0 1:1\n"), one_based_labels=True)

    def test_arguments(self, tmp_path: Path) -> None:
        path = written(tmp_path, "0 1:1\n")
        for name in ("num_features", "num_labels"):
            with pytest.raises(TypeError, match=f"{name}: expected an int or None, got str"):
                read_libsvm(path, **{name: "3"})
            with pytest.raises(ValueError, match=f"{name}: expected at least 0, got -3"):
                read_libsvm(path, **{name: -3})


HEADER = """% a comment
@RELATION 'a set'

@attribute 'wide {thing}' numeric
@attribute colour {red, 'dark blue',green}
@ATTRIBUTE l\\'un {0,1}
@attribute bit {0,1}
@attribute "it's" {1, 0}
@attribute speed REAL
@data
"""
NAMES = ["it's", "l\\'un"]
LIST = '<labels xmlns="http://mulan.sourceforge.net/labels"><label name="{}"/><label name="{}"></label></labels>'


class TestArff:
    def test_dense(self, tmp_path: Path) -> None:
        text = HEADER + "1.5,red,1,0,1,-2\n% nothing\n\n0, 'dark blue' ,0,1,0,1e3\n-7,green,1, 1 ,0,0"
        (tmp_path / "set.xml").write_text(LIST.format("it's", "l\\'un"))
        for path in (written(tmp_path, text, "set.arff"), written(tmp_path, text, "set.arff.gz")):
            for data in (read_arff(path), read_arff(path, NAMES), read_arff(str(path), tmp_path / "set.xml")):
                x = torch.tensor([[1.5, 0, 0, -2], [0, 1, 1, 1e3], [-7, 2, 1, 0]])
                assert_is(data, x, torch.tensor([[1, 1], [0, 0], [0, 1]]).int())
                assert data.feature_names == ("wide {thing}", "colour", "bit", "speed")
                assert data.label_names == tuple(NAMES)

    def test_sparse(self, tmp_path: Path) -> None:
        header = HEADER.replace("{1, 0}", "{0, 1}")
        text = header + "{5 2,0 1.5 , 4 1}\n{}\n{1 'dark blue',2 1,3 1}\n{ 0 0 }\n"
        data = read_arff(written(tmp_path, text), NAMES)
        x = torch.tensor([[1.5, 0, 0, 2], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
        assert_is(data, x, torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0]]).int())
        with pytest.raises(ValueError, match=r"line 11: label \"it's\": expected \{0,1\}; with \{1,0\}"):
            read_arff(written(tmp_path, HEADER + "{}"), NAMES)

    def test_first_or_last_attributes(self, tmp_path: Path, dense: Any) -> None:
        x, y = dense
        kinds = [f"@attribute f{i} numeric" for i in range(FEATURES)]
        labels = [f"@attribute l{i} {{0,1}}" for i in range(LABELS)]
        rows = [(",".join(map(repr, a.tolist())), ",".join(map(str, b.tolist()))) for a, b in zip(x, y, strict=True)]
        text = "\n".join(["@relation r", *kinds, *labels, "@data", *(f"{a},{b}" for a, b in rows)])
        assert_is(read_arff(written(tmp_path, text), -LABELS), x, y)
        text = "\n".join(["@relation r", *labels, *kinds, "@data", *(f"{b},{a}" for a, b in rows)])
        assert_is(read_arff(written(tmp_path, text), LABELS), x, y)

    def test_order_of_nominal_values(self, tmp_path: Path) -> None:
        """Nominal numbers are kept if the first, which sparse rows omit, is 0; otherwise they become indices."""
        head = "@relation r\n@attribute a {0,5,2}\n@attribute b {5,0,2}\n@attribute l {0,1}\n@data\n"
        data = read_arff(written(tmp_path, head + "5,5,1\n2,2,0\n{0 5,1 0}\n"), ["l"])
        assert data.features.toarray().tolist() == [[5, 0], [2, 2], [5, 1]]

    @pytest.mark.parametrize(
        "row,message",
        (
            ("?,red,1,0,1,0", r"attribute 'wide \{thing\}': .* got '\?' \(a missing value\)"),
            ("1,?,1,0,1,0", r"attribute 'colour': .* got '\?' \(a missing value\)"),
            ("1,red,?,0,1,0", r"missing value"),
            ("1,blue,1,0,1,0", "expected one of red, dark blue, green, got 'blue'"),
            ("1,red,2,0,1,0", "got '2'"),
            ("1,red,1,0,1", "expected 6 values, got 5"),
            ("1,red,1,0,1,0,0", "expected 6 values, got 7"),
            ("nan,red,1,0,1,0", "expected a finite number"),
            ("-inf,red,1,0,1,0", "expected a finite number"),
            ("1e39,red,1,0,1,0", "expected a finite number"),
            ("x,red,1,0,1,0", "expected a finite number"),
            ("1,'red,1,0,1,0", "a quote that does not end"),
            ("{0 1,4 1", "expected '{number value"),
            ("{6 1}", "attribute 6 of 6"),
            ("{0 1,0 2}", "attribute 0 twice"),
            ("{0 1,}", "expected 'number value'"),
            ("{0}", "expected 'number value'"),
            ("{0 1 4 1}", "expected 'number value'"),
            ("{0 ?}", "missing value"),
        ),
    )
    def test_malformed_row(self, tmp_path: Path, row: str, message: str) -> None:
        header = HEADER.replace("{1, 0}", "{0, 1}")
        path = written(tmp_path, f"{header}1,red,1,0,1,0\n\n{row}\n")
        with pytest.raises(ValueError, match=rf"set\.txt, line 13: .*{message}"):
            read_arff(path, NAMES)

    @pytest.mark.parametrize(
        "text,message",
        (
            ("", "line 1: the file ends before '@data'"),
            ("@relation r\n@attribute a numeric\n", "line 2: the file ends before '@data'"),
            ("@relation r\n@data\n", "line 2: expected attributes"),
            ("@attribute a string\n@data", "line 1: attribute 'a': expected a numeric or a nominal one, got 'string'"),
            ("@attribute a {x,x}\n@data", "line 1: attribute 'a': expected each value once"),
            ("@attribute a numeric\n@attribute 'a' real\n@data", "line 2: attribute 'a' is declared twice"),
            ("@attribute a\n@data", "line 1: expected '@attribute name type'"),
            ("@attribute foo\n@data", "line 1: expected '@attribute name type', got '@attribute foo'"),
            ("hello\n", "line 1: expected '@relation'"),
            ("@attribute a {0,2}\n@data", "line 2: label 'a': expected values {0,1}"),
        ),
    )
    def test_malformed_header(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=r"set\.txt, ") as caught:
            read_arff(written(tmp_path, text), ["a"])
        assert message in str(caught.value)

    def test_lists_of_labels(self, tmp_path: Path) -> None:
        path = written(tmp_path, "@attribute a {0,1}\n@attribute b numeric\n@data\n1,0\n", "set.arff")
        with pytest.raises(FileNotFoundError, match=r"set\.xml"):
            read_arff(path)
        with pytest.raises(ValueError, match="labels: 'c' is not an attribute of "):
            read_arff(path, ["c"])
        with pytest.raises(ValueError, match="labels: expected each label once"):
            read_arff(path, ["a", "a"])
        for count in (0, 3, -3):
            with pytest.raises(ValueError, match=f"labels: expected 1 to 2 attributes, got {count}"):
                read_arff(path, count)
        for wrong in (True, 3.5):
            with pytest.raises(TypeError, match="labels: expected a path, names, an int or None, got (bool|float)"):
                read_arff(path, wrong)  # type: ignore[arg-type]
        listed = written(tmp_path, "<labels>\n<label name='a'>\n", "set.xml")
        with pytest.raises(ValueError, match=r"set\.xml, line 3: expected XML"):
            read_arff(path)
        listed.write_text("<labels/>")
        with pytest.raises(ValueError, match=r"set\.xml: expected labels, got none"):
            read_arff(path)


PAIR = "3 5\n0:1.0 4:1.0\n\n2:1.0\n"
ONE = [[1, 0, 0, 0, 1], [0] * 5, [0, 0, 1, 0, 0]]
MEKA = "@relation 'Music: -C {} -split-percentage 67'\n"
LABELLED = "@attribute {} {{0,1}}\n@attribute {} {{0,1}}\n@attribute x numeric\n"
LATIN = "@relation r\n@attribute x numeric\n@attribute m\xe9lodie {0,1}\n@data\n2,1\n"
# Kinds of files in use: text or bytes, the file's name, its reader, and the expected features and labels.
FILES: dict[str, tuple[str | bytes, str, Any, list[list[float]], list[list[int]]]] = {
    "libsvm of LIBSVM's site, bzip2": (
        "0,2 1:0.5 3:1\n 2:2\n",
        "a.svm.bz2",
        read_libsvm,
        [[0.5, 0, 1], [0, 2, 0]],
        [[1, 0, 1], [0] * 3],
    ),
    "libsvm of scikit-learn": (
        "# Generated by dump_svmlight_file from scikit-learn 1.9.1\n# Column indices are zero-based\n0,2 0:0.5 2:1\n",
        "a.svm",
        partial(read_libsvm, one_based=False),
        [[0.5, 0, 1]],
        [[1, 0, 1]],
    ),
    "libsvm with queries and float labels": (
        "1.0,2. qid:7 1:1\nqid:8 2:3\n",
        "a.txt",
        read_libsvm,
        [[1, 0], [0, 3]],
        [[0, 1, 1], [0] * 3],
    ),
    "a byte-order mark": (b"\xef\xbb\xbf1 2 2\r\n1 0:1\r\n", "a.txt", read_xmc, [[1, 0]], [[0, 1]]),
    "ARFF of MEKA, labels first": (
        MEKA.format(2) + LABELLED.format("a", "b") + "@data\n1,0,0.5\n{1 1,2 3}\n",
        "a.arff",
        read_arff,
        [[0.5], [3]],
        [[1, 0], [0, 1]],
    ),
    "ARFF of MEKA, labels last": (
        "@relation 'x:-C -1'\n@attribute x numeric\n@attribute l {0,1}\n@data\n2,1\n",
        "a.arff.xz",
        read_arff,
        [[2]],
        [[1]],
    ),
    "ARFF in Latin-1": (LATIN.encode("latin-1"), "a.arff", partial(read_arff, labels=["m\xe9lodie"]), [[2]], [[1]]),
    "comments behind values": (
        "@relation r % of mine\n@attribute 'x%' numeric % in %\n@attribute l {0,1}\n"
        "@data % all\n2,1 % one\n{0 3} % two\n",
        "a.arff",
        partial(read_arff, labels=-1),
        [[2], [3]],
        [[1], [0]],
    ),
}
# Bytes that are not text, by the error's name for them.
FOREIGN: dict[str, bytes] = {
    "a zip archive": b"PK\x03\x04\x14\0\0\0",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "compressed by zstandard": b"\x28\xb5\x2f\xfd\x04\x58",
    "a tar archive": b"set.txt".ljust(257, b"\0") + b"ustar\x0000",
    "a Parquet file": b"PAR1\x15\4",
    "a NumPy array": b"\x93NUMPY\1\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "text in UTF-16": "1 2 2\n".encode("utf-16"),
    "a Python pickle": b"\x80\x04\x95\x10\0",
    "an HTML page": b"\n<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning",
    "binary data": bytes(range(1, 9)) + bytes(8),
}


class TestKindsOfFiles:
    @pytest.mark.parametrize("kind", FILES)
    def test_reads(self, tmp_path: Path, kind: str) -> None:
        content, name, read, features, labels = FILES[kind]
        path = tmp_path / name
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(COMPRESS.get(path.suffix, bytes)(raw))
        assert_is(read(path), torch.tensor(features).float(), torch.tensor(labels).int())

    @pytest.mark.parametrize("kind", FOREIGN)
    @pytest.mark.parametrize("suffix", ("", ".gz"))
    def test_foreign_bytes(self, tmp_path: Path, kind: str, suffix: str) -> None:
        """Every reader raises the same error, which says what the file is."""
        path = tmp_path / f"set.txt{suffix}"
        path.write_bytes(COMPRESS.get(suffix, bytes)(FOREIGN[kind]))
        for read in (read_xmc, read_libsvm, read_arff, read_sparse_matrix, lambda p: read_label_pairs(p, 1, 1)):
            with pytest.raises(ValueError, match=rf"set\.txt{suffix}, line 1: expected text, got {kind}"):
                read(path)

    def test_hints(self, tmp_path: Path) -> None:
        """An error names the argument or the reader for such a file."""
        for text, read, message in (
            ("0 0:1\n", read_libsvm, "feature 0: expected at least 1; one_based=False reads features"),
            (
                "0 1:1\n",
                partial(read_libsvm, one_based_labels=True),
                "label 0: .*; one_based_labels=False reads labels",
            ),
            ("1.5 1:1\n", read_libsvm, "expected labels as 'l1,l2', got '1.5'"),
            (PAIR, read_xmc, "got '3 5'; read_sparse_matrix reads files with a header of 2 counts"),
            ("3 5 2\n", read_sparse_matrix, "got '3 5 2'; read_xmc reads files with a header of 3 counts"),
            ("1,2 0:1\n", read_xmc, "read_libsvm reads files without a header"),
        ):
            with pytest.raises(ValueError, match=message):
                read(written(tmp_path, text))

    @pytest.mark.parametrize("row", ("1,0.5,{5}", "{0 1}, {0.5}"))
    def test_instance_weights(self, tmp_path: Path, row: str) -> None:
        path = written(tmp_path, f"@relation r\n@attribute l {{0,1}}\n@attribute x numeric\n@data\n{row}\n")
        with pytest.raises(ValueError, match=r"line 5: an instance's weight, \{[\d.]+\}, which is not read"):
            read_arff(path, 1)

    @pytest.mark.parametrize(
        "declaration", ('<?xml version="1.0" encoding="iso-8859-1"?>', '<?xml version="1.0" ?>', "")
    )
    def test_lists_in_latin_1(self, tmp_path: Path, declaration: str) -> None:
        (tmp_path / "set.arff").write_bytes(LATIN.encode("latin-1"))
        (tmp_path / "set.xml").write_bytes(
            f"{declaration}<labels><label name='m\xe9lodie'/></labels>".encode("latin-1")
        )
        assert read_arff(tmp_path / "set.arff").label_names == ("m\xe9lodie",)
        (tmp_path / "set.xml").write_bytes(b"\xef\xbb\xbf<labels><label name='m\xc3\xa9lodie'/></labels>")
        assert read_arff(tmp_path / "set.arff").label_names == ("m\xe9lodie",)

    def test_no_list_of_labels(self, tmp_path: Path) -> None:
        path = written(tmp_path, "@relation r\n@attribute a {0,1}\n@data\n1\n", "set.arff")
        with pytest.raises(FileNotFoundError, match=r"no count of them in the relation's name; pass labels=.*set\.xml"):
            read_arff(path)


class TestMatrices:
    def test_matrix(self, tmp_path: Path) -> None:
        """Blank lines are empty rows, in any compression; two matrices are the features and targets of a set."""
        for name in ("trn_X_Y.txt", "trn_X_Y.txt.gz"):
            matrix = read_sparse_matrix(written(tmp_path, PAIR, name))
            assert matrix.dtype == np.float32
            assert matrix.toarray().tolist() == ONE
        features = written(tmp_path, "3 2\n1:0.5 0:2\n0:1\n\n", "trn_X_Xf.txt")
        data = read_xmc_matrices(features, tmp_path / "trn_X_Y.txt")
        assert_is(data, torch.tensor([[2, 0.5], [1, 0], [0, 0]]), torch.tensor(ONE).int())

    @pytest.mark.parametrize(
        "text,message",
        (
            ("3 5\n0:1\n", "line 2: expected 3 rows, as the header says, got 1"),
            ("1 5\n0:1\n1:1\n", "line 3: expected 1 rows, as the header says, got more"),
            ("1 5\n5:1\n", "line 2: feature 5: expected at least 0 and at most 4"),
            ("1 5\n1:1 1:1\n", "line 2: a feature occurs twice"),
            ("1 5\n3,4\n", "line 2: expected 'column:value column:value', got '3,4'"),
            ("1 5\n3 4:1\n", "line 2: expected features"),
        ),
    )
    def test_malformed(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_sparse_matrix(written(tmp_path, text))

    def test_pairs(self, tmp_path: Path) -> None:
        path = written(tmp_path, "2 4\n0 1\n\n2 0\n2 4\n", "filter_labels_test.txt")
        assert read_label_pairs(path, 3, 5).to_dense().int().tolist() == [[0, 1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 1]]
        assert len(read_label_pairs(written(tmp_path, ""), 3, 5)) == 3
        for text, message in (
            ("3 0\n", "line 1: expected a row below 3 and a label below 5, got 3 0"),
            ("0 5\n", "line 1: expected a row below 3"),
            ("0 1\n0\n", "line 2: expected 'row label', got '0'"),
            ("-1 1\n", "line 1: expected 'row label', got '-1 1'"),
        ):
            with pytest.raises(ValueError, match=message):
                read_label_pairs(written(tmp_path, text), 3, 5)
        with pytest.raises(TypeError, match="num_rows: expected an int"):
            read_label_pairs(path, 3.0, 5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="num_labels: expected at least 0"):
            read_label_pairs(path, 3, -1)

    def test_negative_labels(self, tmp_path: Path) -> None:
        path = written(tmp_path, "1 5\n0:-1\n")
        with pytest.raises(ValueError, match="expected labels' values of at least 0, got -1"):
            read_xmc_matrices(path, path)


class TestBatches:
    def data(self, dense: Any) -> MultiLabelData:
        x, y = dense
        return MultiLabelData(scipy.sparse.csr_array(x.numpy()), CSRTargets.from_dense(y))

    @pytest.mark.parametrize("size", (1, 7, ROWS))
    def test_loader(self, dense: Any, size: int) -> None:
        x, y = dense
        loader = DataLoader(self.data(dense), batch_size=size, collate_fn=csr_collate)
        for (features, targets), *part in zip(loader, x.split(size), y.split(size), strict=True):
            assert features.layout == torch.sparse_csr
            assert torch.equal(features.to_dense(), part[0])
            assert torch.equal(targets.to_dense().int(), part[1])

    def test_shuffled_and_one_by_one(self, dense: Any) -> None:
        x, y = dense
        data = self.data(dense)
        order = torch.randperm(ROWS).tolist()
        for samples in ([data[i] for i in order], [data[order[:9]], data[order[9:]]]):
            features, targets = csr_collate(samples)
            assert torch.equal(features.to_dense(), x[order])
            assert torch.equal(targets.to_dense().int(), y[order])
        assert len(data[3:7]) == 4
        assert torch.equal(data[np.int64(2)].targets.to_dense().int(), y[2:3])
        assert torch.equal(data[-1].targets.to_dense().int(), y[-1:])
        for row in (ROWS, -ROWS - 1):
            with pytest.raises(IndexError):
                data[row]
        assert torch.equal(data[y[:, 0] > 0].targets.to_dense().int(), y[y[:, 0] > 0])

    def test_batches_are_on_the_cpu_and_own_their_memory(self) -> None:
        """A batch is on the CPU whatever the default device is; the one here has no memory."""
        data = MultiLabelData(scipy.sparse.csr_array(np.eye(5, dtype=np.float32)), CSRTargets.from_lists([[0]] * 5, 3))
        with torch.device("meta"):
            x, targets = csr_collate([data[0], data[1:1], data[2:4]])
        assert x.to_dense().tolist() == np.eye(5)[[0, 2, 3]].tolist()
        assert targets.crow_indices.tolist() == [0, 1, 2, 3]
        assert csr_collate([data[0:0], data[0:2]])[1].crow_indices.tolist() == [0, 1, 2]
        csr_collate([data])[0].values().mul_(7.0)
        assert data.features.data.tolist() == [1.0] * 5

    def test_trains_a_bag(self, dense: Any) -> None:
        """A batch in the form that EmbeddingBag takes gives the matrix product."""
        x, targets = csr_collate([self.data(dense)])
        bag = torch.nn.EmbeddingBag(FEATURES, 4, mode="sum")
        got = bag(x.col_indices(), x.crow_indices()[:-1], per_sample_weights=x.values())
        torch.testing.assert_close(got, dense[0] @ bag.weight)
        ZLPRLoss()(got @ torch.zeros(4, LABELS), targets).backward()

    def test_pairs(self) -> None:
        samples = [(torch.ones(3), [4, 1]), (torch.zeros(3), torch.tensor([2]))]
        x, targets = csr_collate(samples, num_labels=5)
        assert x.shape == (2, 3)
        assert targets.to_dense().int().tolist() == [[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]]
        weighed = CSRTargets(torch.tensor([0, 1]), torch.tensor([3]), 5, torch.tensor([0.25]))
        _, targets = csr_collate([(1.0, CSRTargets.from_lists([[0], []], 5)), (2.0, weighed)])
        assert targets.to_dense().tolist() == [[1, 0, 0, 0, 0], [0] * 5, [0, 0, 0, 0.25, 0]]
        loader = DataLoader(samples, batch_size=2, collate_fn=partial(csr_collate, num_labels=5))
        assert len(next(iter(loader))[1]) == 2

    def test_bad_input(self, dense: Any) -> None:
        with pytest.raises(ValueError, match="samples: expected at least one"):
            csr_collate([])
        with pytest.raises(TypeError, match="num_labels: expected an int"):
            csr_collate([(1.0, [1])])
        with pytest.raises(TypeError, match="samples: expected labels as numbers, got a bool tensor"):
            csr_collate([(1.0, torch.tensor([True, False]))], num_labels=2)
        mixed = [(1.0, [0]), (1.0, CSRTargets.from_lists([[0]], 2))]
        for samples in (mixed, mixed[::-1]):
            with pytest.raises(TypeError, match="samples: expected labels of one kind"):
                csr_collate(samples, num_labels=2)
        with pytest.raises(ValueError, match="num_labels: expected 2, as the samples have, got 9"):
            csr_collate(mixed[1:], num_labels=9)
        two = [(1.0, CSRTargets.from_lists([[0]], n)) for n in (2, 3)]
        with pytest.raises(ValueError, match=r"samples: expected targets of one number of labels, got \[2, 3\]"):
            csr_collate(two)
        with pytest.raises(ValueError, match=r"samples: expected features of one width, got \[2, 3\]"):
            csr_collate([(scipy.sparse.csr_array((1, n)), [0]) for n in (2, 3)], num_labels=1)
        with pytest.raises(ValueError, match="features: expected 40 rows, as targets, got 1"):
            MultiLabelData(scipy.sparse.csr_array((1, 3)), self.data(dense).targets)


class TestLabels:
    def test_cooccurrence(self, dense: Any) -> None:
        y = dense[1]
        found = cooccurrence(CSRTargets.from_dense(y))
        assert found.format == "csr"
        assert found.toarray().tolist() == (y.T @ y).tolist()
        soft = CSRTargets(torch.tensor([0, 3]), torch.tensor([0, 1, 3]), 4, torch.tensor([1.0, 0.4, 0.6]))
        assert cooccurrence(soft).toarray().tolist() == [[1, 0, 0, 1], [0] * 4, [0] * 4, [1, 0, 0, 1]]
        with pytest.raises(TypeError, match="targets: expected CSRTargets"):
            cooccurrence(y)  # type: ignore[arg-type]

    def test_never_dense(self) -> None:
        """A dense matrix of a million labels squared would take terabytes."""
        targets = CSRTargets.from_lists([[0, 999_999], [5, 999_999]], num_labels=1_000_000)
        assert cooccurrence(targets).nnz == 7

    def test_embeddings_equal_the_svd(self, dense: Any) -> None:
        """Embeddings give the same matrix of rank d as a dense SVD of the definition, up to scale."""
        y = dense[1].double()
        n = y.T @ y
        n.fill_diagonal_(0)
        of_label = n.sum(1)
        ppmi = (n * n.sum() / (of_label[:, None] * of_label)).log().clamp(min=0).nan_to_num(0)
        u, s, _ = torch.linalg.svd(ppmi)
        d = 4
        got = label_embeddings(CSRTargets.from_dense(dense[1]), d).double()
        expected = (u[:, :d] * s[:d]) @ u[:, :d].T
        product = got @ got.T
        torch.testing.assert_close(product / product.norm(), expected / expected.norm(), rtol=0, atol=1e-5)
        assert got.square().mean().item() == pytest.approx(1 / (3 * d), rel=1e-5)

    def test_embeddings_are_repeatable(self, dense: Any) -> None:
        targets = CSRTargets.from_dense(dense[1])
        first = label_embeddings(targets, 3)
        assert torch.equal(first, label_embeddings(cooccurrence(targets), 3))
        torch.testing.assert_close(first, label_embeddings(targets, 3, seed=1), rtol=0, atol=1e-4)

    def test_embeddings_initialise_a_head(self, dense: Any) -> None:
        head = LinearLoss(3, LABELS, ZLPRLoss())
        with torch.no_grad():
            head.weight.copy_(label_embeddings(CSRTargets.from_dense(dense[1]), 3))
        assert head(torch.randn(ROWS, 3), CSRTargets.from_dense(dense[1])).isfinite()

    def test_labels_without_cooccurrence(self) -> None:
        assert label_embeddings(CSRTargets.from_lists([[0], [1]], 3), 2).tolist() == [[0, 0]] * 3

    def test_bad_input(self, dense: Any) -> None:
        targets = CSRTargets.from_dense(dense[1])
        for dim in (0, LABELS):
            with pytest.raises(ValueError, match=f"dim: expected at least 1 and below {LABELS} labels, got {dim}"):
                label_embeddings(targets, dim)
        with pytest.raises(TypeError, match="dim: expected an int"):
            label_embeddings(targets, 2.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="square"):
            label_embeddings(scipy.sparse.csr_array((3, 2)), 1)


def test_missing_scipy_raises() -> None:
    done = run_python(
        "-c",
        "import sys; sys.modules['scipy'] = sys.modules['scipy.sparse'] = None\n"
        "from mlloss_cuda import CSRTargets, data\n"
        "data.cooccurrence(CSRTargets.from_lists([[0]], 1))",
    )
    assert 'ImportError: mlloss_cuda.data needs SciPy: pip install "mlloss-cuda[data]"' in done.stderr


def test_is_not_imported_with_the_package() -> None:
    done = run_python("-c", "import sys, mlloss_cuda; print({'scipy', 'mlloss_cuda.data'} & sys.modules.keys())")
    assert done.stdout.strip() == "set()", done.stderr
