"""``python -m bench``: forward + backward of every loss against the other ways to compute it, on the CPU.

GPUs have a program of their own: ``make gpu``.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import WARM, keep_memory

_ALL = ("copy", "fused", "csr", "inplace", "eager", "compile", "plain", "plain-compile")
_SMALL = ("copy", "fused", "csr", "eager", "compile", "plain")
_LOW = ("copy", "fused", "csr", "inplace", "eager", "compile")


@dataclass(frozen=True)
class Section:
    """One table of times."""

    rows: int
    labels: int
    dtype: str
    names: tuple[str, ...]
    rounds: int


def _shape(text: str) -> tuple[int, int]:
    try:
        rows, labels = (int(part.replace(",", "")) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected BxL, as in 64x131072, got {text!r}") from None
    if rows < 1 or labels < 1:
        raise argparse.ArgumentTypeError(f"expected positive sizes, got {text!r}")
    return rows, labels


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--loss", action="append", metavar="NAME", help="only this one (may be repeated)")
    parser.add_argument("--shape", type=_shape, metavar="BxL", help="only this shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="only this dtype")
    parser.add_argument("--seed", type=int, help="of the random data; default: a new one")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write results and all samples there")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, no torch.compile, no gates: does it run?")
    return parser.parse_args(given)


def _sections(options: argparse.Namespace) -> list[Section]:
    """What is timed: (shape, dtype, competitors, rounds)."""
    from .report import MAIN_SHAPE, SMALL_SHAPE

    low = [options.dtype] if options.dtype else ["float32", "bfloat16"]
    plan: list[tuple[tuple[int, int], str, tuple[str, ...], int]]
    if options.quick:
        plan = [(options.shape or (4, 1_000), dtype, _ALL if dtype == "float32" else _LOW, 3) for dtype in low]
    elif options.shape:
        plan = [(options.shape, dtype, _ALL if dtype == "float32" else _LOW, 45) for dtype in low]
    else:
        plan = [
            (MAIN_SHAPE, "float32", _ALL, 45),
            (SMALL_SHAPE, "float32", _SMALL, 300),
            (MAIN_SHAPE, "bfloat16", _LOW, 30),
        ]
        plan = [entry for entry in plan if entry[1] in low] or [(MAIN_SHAPE, options.dtype, _LOW, 30)]
    without = options.quick or options.no_compile
    return [
        Section(rows, labels, dtype, tuple(n for n in names if not (without and "compile" in n)), rounds)
        for (rows, labels), dtype, names, rounds in plan
    ]


def _cases(wanted: list[str] | None) -> list[Any]:
    from .competitors import all_cases

    cases = all_cases()
    known = {case.name for case in cases} | {case.function.__name__.removesuffix("_loss") for case in cases}
    for name in wanted or ():
        if name not in known:
            sys.exit(f"--loss {name}: expected one of {', '.join(sorted(known))}")
    return [
        case
        for case in cases
        if not wanted or case.name in wanted or case.function.__name__.removesuffix("_loss") in wanted
    ]


def _print_header(header: dict[str, Any], warm: bool) -> None:
    machine, versions = header["machine"], header["versions"]
    print(f"{machine['cpu']} ({machine['capability']}), {machine['cores']} cores, {machine['threads']} threads", end="")
    print(f", {machine['gpu']}" if machine["gpu"] else "")
    print(", ".join(f"{name} {version}" for name, version in versions.items() if version))
    commit = f"commit {header['commit'][:12]}{' (modified)' if header['modified'] else ''}" if header["commit"] else ""
    print(", ".join(filter(None, [commit, f"seed {header['seed']}", f"load average {machine['load_before']:.1f}"])))
    print(WARM if warm else "allocator: as the system has it; times contain page faults for fresh memory.")
    print("order: interleaved rounds, shuffled; logits just written before every run; outputs checked against float64.")
    print(
        "peers: `reference` is this library's plain PyTorch, with all its options and checks; `published` the bare\n"
        "  formula as papers and packages write it (BCE: torch's), on the kind of targets that suits it best."
    )


def _time(sections: list[Section], cases: list[Any], seed: int) -> list[Any]:
    import torch

    from .competitors import LABELS, Problem
    from .measure import measure_case
    from .report import disturbed, time_table

    everything = []
    for section in sections:
        print(f"\n{section.rows} x {section.labels:,}, {section.dtype}, reduction mean", flush=True)
        problem = Problem(section.rows, section.labels, getattr(torch, section.dtype), "cpu", seed)
        measured = [measure_case(case, problem, section.names, section.rounds) for case in cases]
        everything += measured
        print("\n".join(filter(None, [time_table(measured), disturbed(measured)])), flush=True)
        for m in measured:
            for name, reason in m.unavailable.items():
                print(f"not run: {m.case}, {LABELS[name]}: {reason}")
    return everything


def _remember(options: argparse.Namespace, measured: list[Any], seed: int) -> list[Any]:
    from .measure import measure_memory
    from .report import MAIN_SHAPE, memory_table

    rows, labels = options.shape or ((16, 20_000) if options.quick else MAIN_SHAPE)
    # What has run above: a peer that could not compile there would not here.
    names: dict[str, list[str]] = {}
    for m in measured:
        ran = names.setdefault(m.case, [])
        ran += [name for name in m.samples if name != "copy" and name not in ran]
    found, problem = measure_memory(names, rows, labels, "cpu", seed)
    print(f"\nmemory, {rows} x {labels:,}, float32, in a process of its own")
    print(memory_table(found) if found else f"not measured: {problem}", flush=True)
    return found


def main(given: list[str] | None = None) -> int:
    """Run, print, and write what was asked for."""
    options = _arguments(given)
    start = time.monotonic()
    warm = keep_memory()  # before torch is imported

    from .report import about, as_json, gate_table, gates, memory_gates

    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    cases = _cases(options.loss)
    header = about(seed, warm)
    _print_header(header, warm)
    measured = _time(_sections(options), cases, seed)
    memory = [] if options.no_memory else _remember(options, measured, seed)
    found = [] if options.quick else [*gates(measured), *memory_gates(memory)]
    if found:
        print(f"\n{gate_table(found)}")
    header["machine"]["load_after"] = os.getloadavg()[0]
    header["seconds"] = time.monotonic() - start
    print(f"\n{header['seconds']:.0f} s, load average {header['machine']['load_after']:.1f} at the end")
    if options.json:
        options.json.write_text(json.dumps(as_json(header, measured, memory, found), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
