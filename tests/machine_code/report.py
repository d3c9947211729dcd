"""docs/machine_code.md, written from the budgets alone."""

import math

from . import gates
from .budgets import SLACK, Budgets
from .kernels import UNITS

_TEXT = """# Machine code

`python -m tests.machine_code --update` writes this page from what nvcc {nvcc} makes of the kernels. No figure comes
from a run on a GPU. The figures of every kernel and path are in `tests/machine_code/budgets.tsv`.

The tables show a forward pass with gradient, by loss and launch strategy. A cell has, for one architecture:

- **instructions and special-function operations** (`MUFU`) **an element** with CSR targets; with dense bool targets, at
  most {dense:.1f} instructions more. They are counted along the cheapest path that does the work, with whole chunks and
  without positives, weights, offsets and smoothing, which is what most of a batch executes;
- **registers** a thread, the maximum over its kernels.

The loop of a **team** kernel is over rows: 16-byte loads of a thread's chunks, sums, barriers, gradient, 16-byte
stores. Its figure includes the steps of a row, in a warp that does not join the sums of the others. **Element-wise**
kernels take trips of some chunks. **Split** passes have a kernel for statistics and one for the gradient, which are
added up here (without second-pass sums).

These fail the check, whatever the budget is: spilled registers, local memory, a stack frame, a kernel or a path that is
missing or not listed, narrower loads or stores on a path, and a gate that is exceeded. Budgets allow {slack:.0%} more
instructions or special-function operations than were measured last, and no more registers.
{older}
**Gates** are the most that an element may cost, with CSR and with bool targets, for 2-byte logits on sm_90, and
on sm_80 and sm_100 with a tenth more instructions. A gate is a number of instructions, or of *instructions ·
special-function operations*. {exceeded}
"""
_OLDER = """
Columns marked *older* were measured on an earlier version of the kernels, and lack what is new since; a full `--update`
measures them again.
"""

_TABLES = {"2-byte logits": ("bfloat16", "half"), "float and double logits": ("float", "double")}


def _exceeded(budgets: Budgets) -> str:
    measured = {unit: kernels for unit, kernels in budgets.units.items() if not budgets.is_older(unit)}
    lines = [f"- {text}: {gates.EXCEPTIONS.get(key, 'not accepted')}" for key, text in gates.exceeded(measured).items()]
    return "These are exceeded:\n\n" + "\n".join(sorted(lines)) if lines else "None is exceeded."


def _gate(loss: str, strategy: str, dtypes: tuple[str, ...]) -> str:
    gate = gates.GATES.get(loss)
    if not gate or gate.strategy != strategy or dtypes != _TABLES["2-byte logits"]:
        return ""
    return f"{gate.instructions}" + (f" · {gate.special}" if gate.special < math.inf else "")


def _table(budgets: Budgets, dtypes: tuple[str, ...]) -> list[str]:
    units = [unit for unit in UNITS if unit.split()[0] in dtypes and unit in budgets.units]
    heads = [unit + (", older" if budgets.is_older(unit) else "") for unit in units]
    rows = [["loss", "strategy", "gate", *heads], ["---"] * (3 + len(units))]
    for strategy in gates.FORWARD:
        costs = [gates.costs(budgets.units[unit], strategy, "csr") for unit in units]
        for loss in sorted({loss for of_unit in costs for loss in of_unit}):
            found = [of_unit.get(loss) for of_unit in costs]
            cells = [f"{c.instructions:.1f} · {c.special:.1f} · {c.registers}" if c else "" for c in found]
            rows.append([loss, strategy, _gate(loss, strategy, dtypes), *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def _most_for_dense(budgets: Budgets) -> float:
    """Return by how many instructions an element dense bool targets exceed CSR targets, at most."""
    differences = [0.0]
    for kernels in budgets.units.values():
        for strategy in gates.FORWARD:
            sparse, dense = (gates.costs(kernels, strategy, targets) for targets in ("csr", "bool"))
            differences += [dense[loss].instructions - sparse[loss].instructions for loss in dense if loss in sparse]
    return max(differences)


def render(budgets: Budgets) -> str:
    text = _TEXT.format(
        nvcc=budgets.nvcc,
        dense=_most_for_dense(budgets),
        slack=SLACK,
        older=_OLDER if any(map(budgets.is_older, budgets.units)) else "",
        exceeded=_exceeded(budgets),
    )
    for title, dtypes in _TABLES.items():
        text += "\n".join(["", f"## {title[0].upper()}{title[1:]}", "", *_table(budgets, dtypes), ""])
    return text
