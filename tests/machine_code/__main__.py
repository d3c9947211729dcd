"""Compile the CUDA kernels, read the machine code, and fail if it exceeds the budgets.

python -m tests.machine_code
python -m tests.machine_code --update
python -m tests.machine_code --source ../other-tree --units "bfloat16 sm_90" \\
    --show "team_rows<Zlpr, kSparse> row, csr"
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from . import budgets as budget
from . import gates
from .build import ChangedError, MissingToolError, Unit, build, nvcc_release, sources_digest
from .figures import kernels_of
from .kernels import UNITS
from .paths import Path as KernelPath
from .report import render

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "machine_code.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.machine_code", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree whose csrc/ is compiled")
    parser.add_argument(
        "--units", nargs="+", choices=UNITS, default=UNITS, metavar="UNIT", help="'bfloat16 sm_90'; default: all"
    )
    parser.add_argument("--show", metavar="PATHS", help="print instructions: 'team_rows<Zlpr, kSparse> row, *'")
    parser.add_argument("--update", action="store_true", help="make today's figures the budgets, and write the page")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.update and given.source.resolve() != ROOT:
        parser.error("--update is for this tree's own kernels")
    return given


def print_path(name: str, path: KernelPath) -> None:
    print(f"{name}: {path.issued:.2f} instructions, {path.special:.2f} special functions an element:")
    for i in path.instructions:
        print(f"  {i.address:6x} {'@' + i.guard if i.guard else '':>5} {i.opcode} {i.operands}")


def check(given: argparse.Namespace) -> int:
    budgets = budget.load()
    if nvcc_release() != budgets.nvcc:
        print(f"budgets are for nvcc {budgets.nvcc}; this is {nvcc_release()}", file=sys.stderr)
        return 2
    sources = sources_digest(given.source)
    wanted = [Unit(*name.split()) for name in given.units]
    units = build(given.source, wanted, ROOT / "build" / "machine_code", given.jobs)
    with ProcessPoolExecutor(given.jobs) as pool:
        kernels = [k for found in pool.map(kernels_of, units) for k in found]
    for k in kernels:
        for name, path in k.paths.items():
            if given.show and path and fnmatchcase(f"{k.title} {name}", given.show):
                print_path(f"{k.unit} {k.title} {name}", path)
    faults = budget.listing_faults(kernels)
    faults += [f"{k.unit}: {k.title} {fault}" for k in kernels for fault in budget.faults_of(k)]
    excesses = budget.vanished(kernels, budgets)
    for k in kernels:
        own = budgets.units.get(k.unit, {}).get(k.title)
        excesses += [f"{k.unit}: {k.title} {excess}" for excess in budget.excesses_of(budget.entry_of(k), own)]
    measured: gates.Units = {u.name: {k.title: budget.entry_of(k) for k in kernels if k.unit == u.name} for u in units}
    over = gates.problems(measured)
    for key in gates.exceeded(measured).keys() & gates.EXCEPTIONS.keys():
        print(f"gate exceeded: {gates.exceeded(measured)[key]} ({gates.EXCEPTIONS[key]})")
    if given.update and not faults:
        budget.save(budgets, kernels, sources)
        PAGE.write_text(render(budget.load()))
        for excess in excesses:
            print(f"budget changed: {excess}")
        excesses = []
    for problem in (*faults, *over, *excesses):
        print(problem)
    print(f"{len(kernels)} kernels, {len(faults)} faults, {len(over)} gates, {len(excesses)} budgets exceeded")
    return 1 if faults or over or excesses else 0


def main() -> int:
    given = arguments()
    try:
        return check(given)
    except (MissingToolError, ChangedError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
