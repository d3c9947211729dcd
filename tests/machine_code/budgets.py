"""Figures against budgets.json: what was measured last is the most that may be measured next.

units    dtype and architecture -> kernel -> registers, shared memory, instructions, and for each path
         [instructions an element, special-function operations an element, bytes of its narrowest store]
gates    architecture -> device -> instructions and special-function operations an element, forward with gradient,
         for 2-byte logits: 70% of what it issues while a copy moves the element
"""

import json
import re
from pathlib import Path
from typing import Any

from .figures import Kernel
from .kernels import ARCHITECTURES, KERNELS, ONLY_IN, entry_for

FILE = Path(__file__).parent / "budgets.json"
PLANNER = Path(__file__).parents[2] / "csrc" / "core" / "launch_plan.h"
SLACK = 0.02  # of a budget: an instruction or two that the compiler's order of things makes
REGISTERS = 8  # a thread's are given out by so many

Entry = dict[str, Any]


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def entry_of(kernel: Kernel) -> Entry:
    paths = {
        name: [round(path.issued, 3), round(path.special, 3), path.narrowest_store]
        for name, path in kernel.paths.items()
        if path
    }
    return {
        "registers": kernel.resources.registers,
        "shared": kernel.resources.shared,
        "instructions": kernel.instructions,
        "paths": paths,
    }


def most_static_shared() -> int:
    """Bytes that the planner leaves to a kernel's own shared memory."""
    (found,) = re.findall(r"\bkStaticShared = (\d+);", PLANNER.read_text())
    return int(found)


def faults_of(kernel: Kernel) -> list[str]:
    """What no budget excuses."""
    used = kernel.resources
    faults = []
    if used.spills:
        faults.append(f"spills registers to memory: {used.spills} bytes")
    if used.stack:
        faults.append(f"has a stack frame of {used.stack} bytes")
    if kernel.local:
        faults.append(f"has {kernel.local} accesses to local memory")
    if used.shared > most_static_shared():
        faults.append(f"has {used.shared} bytes of static shared memory, kStaticShared is {most_static_shared()}")
    faults += [
        f"has no path '{name}': the logits' 16-byte load, an exponential an element, and the store where there is one. "
        "If its loops changed, tests/machine_code/kernels.py must say so"
        for name, path in kernel.paths.items()
        if path is None
    ]
    return faults


def _granted(registers: int) -> int:
    return -(-registers // REGISTERS) * REGISTERS


def _path_excesses(name: str, figures: list[float], budget: list[float]) -> list[str]:
    excesses = [
        f"'{name}': {figure:.2f} {what} an element, budget {most:.2f}"
        for figure, most, what in zip(figures, budget, ("instructions", "special-function operations"), strict=False)
        if figure > most * (1 + SLACK)
    ]
    if figures[2] < budget[2]:
        excesses.append(f"'{name}': stores of {figures[2]:g} bytes, budget {budget[2]:g}")
    return excesses


def excesses_of(entry: Entry, budget: Entry | None) -> list[str]:
    """Where a kernel's figures exceed its budget."""
    if budget is None:
        return ["has no budget (--update writes one)"]
    excesses = []
    if _granted(entry["registers"]) > _granted(budget["registers"]):
        excesses.append(f"{entry['registers']} registers, budget {budget['registers']}")
    for name, figures in entry["paths"].items():
        if name not in budget["paths"]:
            excesses.append(f"'{name}' has no budget (--update writes one)")
        else:
            excesses += _path_excesses(name, figures, budget["paths"][name])
    return excesses


def listing_faults(kernels: list[Kernel]) -> list[str]:
    """Where kernels.py and the build differ."""
    titles = sorted({k.title for k in kernels})
    built = {entry_for(title) for title in titles}
    unlisted = [f"{title} is not listed in tests/machine_code/kernels.py" for title in titles if not entry_for(title)]
    dtypes = {k.unit.split()[0] for k in kernels}
    missing = [
        f"{entry} is listed in tests/machine_code/kernels.py and not built"
        for entry in KERNELS
        if entry not in built and dtypes & ONLY_IN.get(entry, dtypes)
    ]
    return unlisted + missing


def vanished(kernels: list[Kernel], units: dict[str, dict[str, Entry]]) -> list[str]:
    """Budgets of kernels that are no longer built."""
    built: dict[str, set[str]] = {}
    for k in kernels:
        built.setdefault(k.unit, set()).add(k.title)
    return [
        f"{unit}: {title} has a budget and is not built (--update removes it)"
        for unit, titles in built.items()
        for title in units.get(unit, {})
        if title not in titles
    ]


def save(budgets: dict[str, Any], kernels: list[Kernel]) -> None:
    """Today's figures as the budgets of the units they are about, a line a kernel."""
    units: dict[str, dict[str, Entry]] = budgets["units"]
    for unit in {k.unit for k in kernels}:
        units[unit] = {k.title: entry_of(k) for k in kernels if k.unit == unit}
    order = [f"{dtype} {architecture}" for dtype, some in ARCHITECTURES.items() for architecture in some]
    budgets["units"] = {unit: units[unit] for unit in order if unit in units}
    FILE.write_text(dump(budgets))


def dump(budgets: dict[str, Any]) -> str:
    units = ",\n".join(
        f"  {json.dumps(unit)}: {{\n"
        + ",\n".join(f"   {json.dumps(title)}: {json.dumps(entry)}" for title, entry in entries.items())
        + "\n  }"
        for unit, entries in budgets["units"].items()
    )
    gates = ",\n".join(f"  {json.dumps(a)}: {json.dumps(g)}" for a, g in budgets["gates"].items())
    return f'{{\n "nvcc": {json.dumps(budgets["nvcc"])},\n "gates": {{\n{gates}\n }},\n "units": {{\n{units}\n }}\n}}\n'
