"""Budgets of the kernels: the figures measured last are the most that the next measurement may show.

budgets.tsv has a line for each unit (a dtype and an architecture) with a digest of the sources it was measured on, and
below it a line for each kernel:

    title  registers  bytes of shared memory  instructions  path ...

A path is its name, and its instructions / special-function operations an element.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from .figures import Kernel
from .kernels import KERNELS, ONLY_IN, UNITS, entry_for

FILE = Path(__file__).parent / "budgets.tsv"
PLANNER = Path(__file__).parents[2] / "csrc" / "core" / "launch_plan.h"
SLACK = 0.02  # of a budget: an instruction or two that the compiler's scheduling adds
REGISTERS = 8  # the hardware's unit of allocation for a thread

Figures = tuple[float, float]  # instructions and special-function operations an element along a path


@dataclass(frozen=True)
class Entry:
    """The figures of a kernel."""

    registers: int
    shared: int
    instructions: int
    paths: dict[str, Figures] = field(default_factory=dict)  # by loop and path: "row, csr"


@dataclass
class Budgets:
    """The table of budgets."""

    nvcc: str = ""
    sources: str = ""  # the digest of the sources measured last
    measured_on: dict[str, str] = field(default_factory=dict)  # the digest for each unit
    units: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def is_older(self, unit: str) -> bool:
        """Whether a unit was measured on an earlier version of the kernels."""
        return self.measured_on[unit] != self.sources


def _parse_path(text: str) -> tuple[str, Figures]:
    name, _, figures = text.rpartition(" ")
    issued, special = figures.split("/")
    return name, (float(issued), float(special))


def parse(text: str) -> Budgets:
    found = Budgets()
    for line in text.splitlines():
        name, *fields = line.split("\t")
        if name == "measured":
            found.nvcc, found.sources = fields
        elif name == "unit":
            unit = fields[0]
            found.measured_on[unit] = fields[1]
            found.units[unit] = {}
        else:
            registers, shared, instructions = map(int, fields[:3])
            found.units[unit][name] = Entry(registers, shared, instructions, dict(map(_parse_path, fields[3:])))
    return found


def dump(budgets: Budgets) -> str:
    lines = [["measured", budgets.nvcc, budgets.sources]]
    for unit in UNITS:
        if unit not in budgets.units:
            continue
        lines.append(["unit", unit, budgets.measured_on[unit]])
        for title, e in budgets.units[unit].items():
            paths = [f"{name} {issued:.6g}/{special:.6g}" for name, (issued, special) in e.paths.items()]
            lines.append([title, str(e.registers), str(e.shared), str(e.instructions), *paths])
    return "".join("\t".join(line) + "\n" for line in lines)


def load() -> Budgets:
    return parse(FILE.read_text())


def save(budgets: Budgets, kernels: list[Kernel], sources: str) -> None:
    """Make today's figures the budgets of the units that the kernels belong to."""
    budgets.sources = sources
    for unit in {k.unit for k in kernels}:
        budgets.measured_on[unit] = sources
        budgets.units[unit] = {k.title: entry_of(k) for k in kernels if k.unit == unit}
    FILE.write_text(dump(budgets))


def entry_of(kernel: Kernel) -> Entry:
    used = kernel.resources
    paths = {name: (round(path.issued, 3), round(path.special, 3)) for name, path in kernel.paths.items() if path}
    return Entry(used.registers, used.shared, kernel.instructions, paths)


# ---- what fails ---------------------------------------------------------------------------------


def most_static_shared() -> int:
    """Return the bytes that the planner leaves to a kernel's own shared memory."""
    (found,) = re.findall(r"\bkStaticShared = (\d+);", PLANNER.read_text())
    return int(found)


def faults_of(kernel: Kernel) -> list[str]:
    """Return what is wrong whatever the budget is."""
    used = kernel.resources
    faults = []
    if used.spills:
        faults.append(f"spills registers to memory: {used.spills} bytes")
    if used.stack:
        faults.append(f"has a stack frame of {used.stack} bytes")
    if kernel.local:
        faults.append(f"has {kernel.local} accesses to local memory")
    if kernel.drops_nan:
        faults.append(f"has {kernel.drops_nan} minima that drop a NaN; at_most() keeps it")
    if used.shared > most_static_shared():
        faults.append(f"has {used.shared} bytes of static shared memory, kStaticShared is {most_static_shared()}")
    faults += [
        f"has no path '{name}': 16-byte loads of logits, an exponential an element, and 16-byte stores if it stores. "
        "If its loops changed, tests/machine_code/kernels.py must say so"
        for name, path in kernel.paths.items()
        if path is None
    ]
    return faults


def _granted(registers: int) -> int:
    return -(-registers // REGISTERS) * REGISTERS


def excesses_of(entry: Entry, budget: Entry | None) -> list[str]:
    """Return where a kernel's figures exceed its budget."""
    if budget is None:
        return ["has no budget (--update writes one)"]
    excesses = []
    if _granted(entry.registers) > _granted(budget.registers):
        excesses.append(f"{entry.registers} registers, budget {budget.registers}")
    for name, figures in entry.paths.items():
        if name not in budget.paths:
            excesses.append(f"'{name}' has no budget (--update writes one)")
            continue
        most = budget.paths[name]
        for k, what in enumerate(("instructions", "special-function operations")):
            if figures[k] > most[k] * (1 + SLACK):
                excesses.append(f"'{name}': {figures[k]:.2f} {what} an element, budget {most[k]:.2f}")
    return excesses


def listing_faults(kernels: list[Kernel]) -> list[str]:
    """Return where the list in kernels.py and the build differ."""
    titles = sorted({k.title for k in kernels})
    built = {entry_for(title) for title in titles}
    unlisted = [f"{title} is not listed in tests/machine_code/kernels.py" for title in titles if not entry_for(title)]
    dtypes = {k.unit.split()[0] for k in kernels}
    missing = [
        f"{entry} is listed in tests/machine_code/kernels.py and not built"
        for entry in KERNELS
        if entry not in built and dtypes & ONLY_IN.get(entry.partition("<")[0], dtypes)
    ]
    return unlisted + missing


def vanished(kernels: list[Kernel], budgets: Budgets) -> list[str]:
    """Return the budgets of kernels that are no longer built."""
    built = {(k.unit, k.title) for k in kernels}
    return [
        f"{unit}: {title} has a budget and is not built (--update removes it)"
        for unit in dict.fromkeys(k.unit for k in kernels)
        for title in budgets.units.get(unit, {})
        if (unit, title) not in built
    ]
