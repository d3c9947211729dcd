"""Compiles the CUDA kernels, reads the machine code, and fails where it exceeds the budgets.

python -m tests.machine_code
python -m tests.machine_code --update
python -m tests.machine_code --source ../other-tree --units "bfloat16 sm_90" --figures \\
    --show "streaming<Zlpr> gradient, csr"
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from . import budgets as budget
from .build import ChangedError, MissingToolError, Unit, build, nvcc_release
from .categories import breakdown
from .figures import Kernel, kernels_of
from .kernels import ARCHITECTURES
from .paths import Path as Way
from .report import render

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "machine_code.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.machine_code", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [f"{dtype} {architecture}" for dtype, some in ARCHITECTURES.items() for architecture in some]
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree whose csrc/ is compiled")
    parser.add_argument(
        "--units", nargs="+", choices=every, default=every, metavar="UNIT", help="'bfloat16 sm_90'; all"
    )
    parser.add_argument("--figures", action="store_true", help="print every kernel's figures")
    parser.add_argument("--show", metavar="PATH", help="print a path's instructions: 'streaming<Zlpr> gradient, csr'")
    parser.add_argument("--update", action="store_true", help="make today's figures the budgets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.update and given.source.resolve() != ROOT:
        parser.error("--update is for this tree's own kernels")
    return given


def print_figures(kernel: Kernel) -> None:
    used = kernel.resources
    print(
        f"{kernel.unit} {kernel.title}: {used.registers} registers, {used.shared} bytes shared, "
        f"{kernel.instructions} instructions"
    )
    for name, path in kernel.paths.items():
        if not path:
            print(f"  {name:26} not found")
            continue
        accesses = ", ".join(f"{opcode} x{n}" if n > 1 else opcode for opcode, n in path.accesses.items())
        parts = ", ".join(f"{what} {n:.1f}" for what, n in breakdown(path).items())
        print(f"  {name:26} {path.issued:6.2f} · {path.special:.2f}   {accesses}")
        print(f"  {'':26} {parts}")


def print_instructions(title: str, path: Way) -> None:
    print(f"{title}:")
    for i in path.instructions:
        print(f"  {i.address:6x} {'@' + i.guard if i.guard else '':>5} {i.opcode} {i.operands}")


def problems_of(kernels: list[Kernel], units: dict[str, dict[str, budget.Entry]]) -> list[str]:
    """Where figures exceed budgets."""
    found = budget.vanished(kernels, units)
    for k in kernels:
        excesses = budget.excesses_of(budget.entry_of(k), units.get(k.unit, {}).get(k.title))
        found += [f"{k.unit}: {k.title} {excess}" for excess in excesses]
    return found


def main() -> int:
    given = arguments()
    budgets = budget.load()
    try:
        return check(given, budgets)
    except (MissingToolError, ChangedError) as error:
        print(error, file=sys.stderr)
        return 2


def check(given: argparse.Namespace, budgets: dict[str, Any]) -> int:
    if nvcc_release() != budgets["nvcc"]:
        print(f"budgets are for nvcc {budgets['nvcc']}; this is {nvcc_release()}", file=sys.stderr)
        return 2
    wanted = [Unit(*name.split()) for name in given.units]
    units = build(given.source, wanted, ROOT / "build" / "machine_code", given.jobs)
    with ProcessPoolExecutor(given.jobs) as pool:
        kernels = [k for found in pool.map(kernels_of, units) for k in found]
    for k in kernels:
        if given.figures:
            print_figures(k)
        for name, path in k.paths.items():
            if path and given.show == f"{k.title} {name}":
                print_instructions(f"{k.unit} {given.show}", path)
    faults = budget.listing_faults(kernels)
    faults += [f"{k.unit}: {k.title} {fault}" for k in kernels for fault in budget.faults_of(k)]
    excesses = problems_of(kernels, budgets["units"])
    if given.update and not faults:
        budget.save(budgets, kernels)
        TABLE.write_text(render(budget.load()))
        for excess in excesses:
            print(f"budget changed: {excess}")
        return 0
    for problem in (*faults, *excesses):
        print(problem)
    print(f"{len(kernels)} kernels, {len(faults)} faults, {len(excesses)} budgets exceeded")
    return 1 if faults or excesses else 0


if __name__ == "__main__":
    sys.exit(main())
