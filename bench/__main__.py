"""``python -m bench``: forward + backward of every loss against other implementations of it, on the CPU.

``make gpu`` measures a GPU. ``python -m bench compare BEFORE AFTER`` compares two results.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from . import WARM, keep_memory
from .plan import MAIN_SHAPE, Section, default_sections, full_sections, one_shape, quick_sections

_SECONDS = 235.0  # for times; memory is measured after them


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
    parser.add_argument("--loss", action="append", metavar="NAME", help="only this loss (may be repeated)")
    parser.add_argument("--shape", type=_shape, metavar="BxL", help="only this shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="only this dtype")
    parser.add_argument("--seed", type=int, help="seed of the random data; default: a new one")
    parser.add_argument("--json", type=Path, metavar="PATH", help="file for the results and all samples")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out")
    parser.add_argument("--full", action="store_true", help="every loss, shape, dtype, layout and peer")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="begin no loss after this time; default: 235, or none"
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes, no torch.compile, no gates: does it run?")
    options = parser.parse_args(given)
    if options.seconds is None:
        options.seconds = math.inf if options.full or options.shape else _SECONDS
    return options


def _sections(options: argparse.Namespace) -> list[Section]:
    """Return the sections that the options name."""
    dtypes = [options.dtype] if options.dtype else ["float32", "bfloat16"]
    if options.quick:
        sections = quick_sections(options.shape or (4, 1_000), dtypes)
    elif options.shape:
        sections = one_shape(options.shape, dtypes)
    else:
        sections = full_sections() if options.full else default_sections()
        dtypes = [options.dtype] if options.dtype else sorted({section.dtype for section in sections})
        sections = [section for section in sections if section.dtype in dtypes] or one_shape(MAIN_SHAPE, dtypes)
    return [section.without(("compile",)) for section in sections] if options.no_compile else sections


def _cases(wanted: list[str] | None) -> list[Any]:
    from .implementations import all_cases

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
    print(WARM if warm else "allocator: the system's; times contain page faults for fresh memory.")
    print(
        "order: interleaved rounds, shuffled; logits are written before every run; outputs are checked against float64."
    )
    print(
        "peers: `reference` is this library's plain PyTorch with all its options and checks; `published` is the bare\n"
        "  formula as papers and packages write it (BCE: torch's), on the kind of targets that suits it best."
    )


def _cases_of(section: Section, cases: list[Any]) -> list[Any]:
    wanted = {"main": (True,), "others": (False,), "all": (True, False)}[section.cases]
    return [case for case in cases if case.main in wanted]


def _time(section: Section, cases: list[Any], seed: int, end: float) -> tuple[list[Any], list[str]]:
    """Print one table; return its times, and the cases that are left out because ``end`` has passed."""
    import torch

    from .implementations import LABELS, Problem
    from .measure import measure_case
    from .report import disturbed, time_table

    print(f"\n{section}, reduction mean (batchmean for sums of losses)", flush=True)
    start = time.monotonic()
    problem = Problem(section.rows, section.labels, getattr(torch, section.dtype), "cpu", seed)
    measured, left_out = [], []
    for case in cases:
        if time.monotonic() > end:
            left_out.append(f"{case.name}, {section}")
            continue
        measured.append(measure_case(case, problem, section.names, section.rounds, section.seconds))
    took = f"{time.monotonic() - start:.0f} s"
    print("\n".join(filter(None, [time_table(measured), disturbed(measured), took])), flush=True)
    for m in measured:
        for name, reason in m.unavailable.items():
            print(f"not run: {m.case}, {LABELS[name]}: {reason}")
    return measured, left_out


def _remember(timed: list[tuple[Section, list[Any]]], seed: int) -> list[Any]:
    """Measure memory only for implementations that were timed: one that cannot run would fail here too."""
    from .memory import Request, measure_memory
    from .report import memory_table

    requests: dict[tuple[int, int, str], Request] = {}
    for section, measured in timed:
        shape = (section.rows, section.labels, section.dtype)
        for m in measured:
            names = [name for name in m.samples if name in section.memory]
            requests.setdefault(shape, Request({}, *shape, seed)).names[m.case] = names
    found, problem = measure_memory(list(requests.values()))
    print("\nmemory, in a process of its own")
    print(memory_table(found) if found else f"not measured: {problem}", flush=True)
    return found


def main(given: list[str] | None = None) -> int:
    """Measure, print, and write the results; or compare two results."""
    given = sys.argv[1:] if given is None else given
    if given[:1] == ["compare"]:
        from .compare import main as compare

        return compare(given[1:])
    options = _arguments(given)
    start = time.monotonic()
    warm = keep_memory()  # before torch is imported

    from .about import about
    from .gates import gate_table, gates, memory_gates
    from .report import as_json, written

    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    cases = _cases(options.loss)
    header = about(seed, warm)
    _print_header(header, warm)
    timed: list[tuple[Section, list[Any]]] = []
    left_out: list[str] = []
    for section in _sections(options):
        measured, late = _time(section, _cases_of(section, cases), seed, start + options.seconds)
        timed.append((section, measured))
        left_out += late
    measured = [m for _, found in timed for m in found]
    memory = [] if options.no_memory else _remember(timed, seed)
    found = [] if options.quick else [*gates(measured), *memory_gates(memory)]
    if found:
        print(f"\n{gate_table(found)}")
    if left_out:
        print(f"\nleft out, for lack of time: {'; '.join(left_out)}")
    header["machine"]["load_after"] = os.getloadavg()[0]
    header["seconds"] = time.monotonic() - start
    print(f"\n{header['seconds']:.0f} s, load average {header['machine']['load_after']:.1f} at the end")
    if options.json:
        options.json.write_text(written(as_json(header, measured, memory, found, left_out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
