"""docs/machine_code.md, written from the budgets alone."""

from .budgets import SLACK, Budgets, Figures
from .kernels import DTYPES, FORWARD, GATES, UNITS

_TEXT = """# Machine code

`python -m tests.machine_code --update` writes this page from what nvcc {nvcc} makes of the kernels. No figure comes
from a run on a GPU. The figures of every kernel and loop are in `tests/machine_code/budgets.tsv`.

The tables show a forward pass with gradient, by loss and launch strategy. A cell has, for one architecture:

- **instructions and special-function operations** (`MUFU`) **an element**, summed over the loops for statistics and
  gradient (without second-pass sums), for a chunk of CSR targets without positives. They are counted along the cheapest
  path around each loop that loads 16 bytes of logits, takes an exponential of every element and, in gradient loops,
  stores the gradient: the least that the common case executes, with whole chunks, no weights, no offsets and no
  smoothing. A dense bool chunk costs up to {dense:.1f} instructions more;
- **registers** a thread, of the kernel that needs most.

No kernel spills: spilled registers, local memory or a stack frame fail the check, whatever the budget. So do a kernel
or a path that is missing or not listed, {slack:.0%} more instructions or special-function operations than the budget,
more registers, and narrower stores.

**The gate** is 70% of what a device issues while a copy moves the element; over it, arithmetic bounds the kernel. For
2-byte logits it is {gates}; for float it is twice that.
**Bold** cells exceed the gate of every device of their architecture, *italic* ones that of some.
{older}"""
_OLDER = """
Columns marked *older* were measured on an earlier version of the kernels; a full `--update` measures them again.
"""

_TABLES = {"2-byte logits": ("bfloat16", "half"), "float and double logits": ("float", "double")}


def _totals(budgets: Budgets, unit: str, strategy: str, path: str) -> dict[str, tuple[float, float, int]]:
    """Return instructions and special-function operations, summed over a strategy's loops, and registers, by loss."""
    kernels = budgets.units.get(unit, {})
    loops = FORWARD[strategy]
    before, after = loops[0][0].split("*")
    totals = {}
    for title, entry in kernels.items():
        if not (title.startswith(before) and title.endswith(after) and entry.paths):
            continue
        loss = title[len(before) : len(title) - len(after)]
        entries = [kernels[pattern.replace("*", loss)] for pattern, _ in loops]
        parts: list[Figures | None] = [
            e.paths.get(f"{loop}, {path}") for e, (_, loop) in zip(entries, loops, strict=True)
        ]
        found = [p for p in parts if p]
        if len(found) == len(parts):
            totals[loss] = (sum(p[0] for p in found), sum(p[1] for p in found), max(e.registers for e in entries))
    return totals


def _cell(unit: str, total: tuple[float, float, int] | None) -> str:
    if total is None:
        return ""
    dtype, architecture = unit.split()
    gates = GATES.get(architecture, {}).values() if dtype != "double" else ()
    over = [any(t > g * DTYPES[dtype] / 2 for t, g in zip(total, gate, strict=False)) for gate in gates]
    mark = "" if not any(over) else "**" if all(over) else "*"
    return f"{mark}{total[0]:.1f} · {total[1]:.1f}{mark} · {total[2]}"


def _table(budgets: Budgets, dtypes: tuple[str, ...]) -> list[str]:
    units = [unit for unit in UNITS if unit.split()[0] in dtypes and unit in budgets.units]
    heads = [unit + (", older" if budgets.is_older(unit) else "") for unit in units]
    rows = [["loss", "strategy", *heads], ["---"] * (2 + len(units))]
    for strategy in FORWARD:
        totals = {unit: _totals(budgets, unit, strategy, "csr") for unit in units}
        losses = sorted({loss for of_unit in totals.values() for loss in of_unit})
        rows += [[loss, strategy, *(_cell(u, totals[u].get(loss)) for u in units)] for loss in losses]
    return [f"| {' | '.join(row)} |" for row in rows]


def _most_for_dense(budgets: Budgets) -> float:
    """Return by how many instructions an element dense bool targets exceed CSR targets, at most."""
    differences = [0.0]
    for unit in budgets.units:
        for strategy in FORWARD:
            sparse, dense = (_totals(budgets, unit, strategy, path) for path in ("csr", "bool"))
            differences += [dense[loss][0] - sparse[loss][0] for loss in dense]
    return max(differences)


def render(budgets: Budgets) -> str:
    gates = [f"{a} · {b} ({device})" for devices in GATES.values() for device, (a, b) in devices.items()]
    older = _OLDER if any(map(budgets.is_older, budgets.units)) else ""
    text = _TEXT.format(
        nvcc=budgets.nvcc, dense=_most_for_dense(budgets), slack=SLACK, gates=", ".join(gates), older=older
    )
    for title, dtypes in _TABLES.items():
        text += "\n".join(["", f"## {title[0].upper()}{title[1:]}", "", *_table(budgets, dtypes), ""])
    return text
