"""``docs/benchmarks.md``: every figure in ``bench/results``, CPUs and GPUs in chapters of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from .figures import Figure, Results
from .markdown import factor, table
from .plan import shape_of
from .plots import NAMES, name_of, pictures_of

__all__ = ["rendered"]

_HEAD = """\
# Benchmarks

`make report` draws this page from `bench/results`; do not edit it. `make bench` measures the CPU in five minutes,
`make bench FULL=1` every loss, shape, dtype, layout and peer, and `make gpu` a GPU. Ratios are of one run; a bare time
says nothing about another machine.

- **Time** is that of forward + backward with `reduction="mean"`: the median, and after ± half of the interquartile
  range. Rounds are interleaved in a new random order each time, and the logits are written before each run. Every
  output was compared with float64 first.
- **Share of the floor**: the time to move logits, gradient and targets once each, at the speed of a copy of the logits
  in the same run, over the time.
- **Peers**: the columns show how many times faster ours is with dense targets. *Reference* is this package's plain
  PyTorch with all its options and checks. *Published* is the bare formula as papers and packages write it (BCE and
  multi-positive cross-entropy: `torch.nn.functional`'s), on the targets that suit it best; with 16-bit logits it is
  computed in float32, as under autocast. *Compiled* means `torch.compile`.
- **Memory**, in brackets, is the peak beyond logits and targets in units of the logits: the gradient is 1.
- **Symmetric KL** compares the logits of two passes and differentiates both: its floor has two reads and two writes.

`python -m bench compare BEFORE.json AFTER.json` compares two results, and fails if ours became slower by more than
the two runs' spreads explain.
"""

_NO_GPU = """\
None yet: the CUDA kernels are tested under an emulator on the CPU, and have not run on a GPU (`make gpu`).
"""

_PEERS = {
    "eager": "reference",
    "compile": "reference, compiled",
    "plain": "published",
    "plain-compile": "published, compiled",
    "float32": "published",
    "float32-compile": "published, compiled",
    "torchvision": "torchvision",
    "monai": "MONAI",
}
_LAYOUTS = {"csr": "CSR ms", "floating": "floating ms", "inplace": "in place ms"}
_CAPTIONS = {
    "time": "Time over the number of labels",
    "memory": "Peak memory over the number of labels",
    "floor": "Share of the floor by loss and backend",
}


def _ms(figure: Figure | None, peak: float | None) -> str:
    if figure is None:
        return ""
    digits = 2 if figure.ms < 100 else 0
    return f"{figure.ms:.{digits}f} ± {figure.ms * figure.spread / 2:.{digits}f}{_bracket(peak)}"


def _bracket(peak: float | None) -> str:
    return "" if peak is None else f" ({abs(peak):.1f})"


def _times(peer: Figure | None, ours: Figure, peak: float | None) -> str:
    return "" if peer is None else factor(peer.ms / ours.ms) + _bracket(peak)


def _row(figures: Sequence[Figure], peaks: dict[str, float]) -> list[str]:
    """Return the row of one loss at one shape."""
    by_name = {figure.implementation: figure for figure in figures if figure.default}
    ours = by_name["fused"]
    floors = [f"{f.of_the_floor:.0%}" for name in ("fused", "csr") if (f := by_name.get(name)) and f.of_the_floor]
    return [
        name_of(ours.case) + (f" ({ours.strategy})" if ours.strategy else ""),
        _ms(ours, peaks.get("fused")),
        *(_ms(by_name.get(name), peaks.get(name)) for name in _LAYOUTS),
        " · ".join(floors),
        *(_times(by_name.get(name), ours, peaks.get(name)) for name in _PEERS),
    ]


def _shape_table(results: Results, figures: Sequence[Figure]) -> str:
    first = figures[0]
    head = ["", "dense ms", *_LAYOUTS.values(), "floor (dense · CSR)", *_PEERS.values()]
    peaks = _memory(results, first)
    rows = [
        _row(of_case, peaks.get(case, {}))
        for case, of_case in _by_case(figures)
        if any(f.implementation == "fused" and f.default for f in of_case)
    ]
    filled = [0, *(i for i in range(1, len(head)) if any(row[i] for row in rows))]
    head, *rows = ([row[i] for i in filled] for row in (head, *rows))
    busy = "" if all(f.quiet for f in figures) else " Other programs took part of the machine."
    shape = f"{shape_of(first.rows, first.labels)}, {first.dtype}"
    return f"### {shape}\n\n{table(head, rows)}\n\n{results.provenance}.{busy}\n"


def _by_case(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    order = [*NAMES, *sorted({f.case for f in figures} - set(NAMES))]
    for case in order:
        found = [f for f in figures if f.case == case]
        if found:
            yield case, found


def _memory(results: Results, at: Figure) -> dict[str, dict[str, float]]:
    """Return the peaks at that shape by case and implementation."""
    found: dict[str, dict[str, float]] = {}
    for row in results.memory:
        if (row["rows"], row["labels"], row["dtype"]) == (at.rows, at.labels, at.dtype):
            found.setdefault(row["case"], {})[row["competitor"]] = row["peak"]
    return found


def _section(results: Results) -> Iterator[str]:
    versions = results.header["versions"]
    met = sum(gate["passed"] for gate in results.header["gates"])
    details = [f"Python {versions['python']}", versions["libc"]] if not results.on_gpu else [f"CUDA {versions['cuda']}"]
    yield f"## {results.machine}\n"
    yield f"{results.provenance} ({', '.join(details)}); {met} of {len(results.header['gates'])} gates met.\n"
    for what, file in pictures_of(results).items():
        yield f"![{_CAPTIONS[what]}](images/bench/{file})\n"
    step = sorted(results.find(mode="step"), key=lambda f: (f.dtype != _first(results), f.dtype, f.labels))
    for _, figures in groupby(step, key=lambda f: (f.dtype, f.rows, f.labels)):
        yield _shape_table(results, list(figures))
    if results.header["not_run"]:
        yield f"Not run: {', '.join(results.header['not_run'])}.\n"
    left_out = results.header.get("left_out")
    if left_out:
        yield f"Left out, for lack of time or memory: {'; '.join(left_out)}.\n"


def _first(results: Results) -> str:
    return "bfloat16" if results.on_gpu else "float32"


def rendered(everything: Sequence[Results]) -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for title, on_gpu in (("CPU", False), ("GPU", True)):
        found = [results for results in everything if results.on_gpu == on_gpu]
        sections = [part for results in found for part in _section(results)]
        # One chapter for each kind of device: a CPU's time says nothing about a GPU's.
        parts += [f"---\n\n**{title}s**\n", *(sections or [_NO_GPU])]
    return "\n".join(parts)
