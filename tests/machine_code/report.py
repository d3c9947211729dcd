"""docs/machine_code.md, from budgets.json alone."""

from typing import Any

from .kernels import DTYPES, FORWARD, PATHS

_HEAD = """# Machine code

Written by `make sass UPDATE=1` from what nvcc {nvcc} makes of the kernels; nothing here was run on a GPU.

Instructions and special-function operations (`MUFU`) an element, along the cheapest way around each loop that loads
16 bytes of logits, takes an exponential of every element and, in gradient loops, stores the gradient. So they are the
least that the common case executes: whole chunks, no weights, no offsets, no smoothing. *csr*, *bool*: a chunk without
positives, of CSR and of dense bool targets. *bool, positives*: a dense chunk of hard labels with positives in it.
"""

_GATES = """
## Forward with gradient, against the gates

Statistics and gradient together, *csr* and *bool*, without late sums. The gate is 70% of what the device issues while
a copy moves the element; beyond it arithmetic is what bounds the kernel. **Bold**: over the gate.
"""

Loops = tuple[tuple[str, str], ...]


def _pair(figures: list[float], gate: list[float] | None = None) -> str:
    texts = [f"{figures[0]:.1f}", f"{figures[1]:.1f}"]
    if gate:
        texts = [f"**{t}**" if f > g else t for t, f, g in zip(texts, figures, gate, strict=False)]
    return " · ".join(texts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _losses(kernels: dict[str, Any], pattern: str) -> list[str]:
    """What * stands for, in the order of the kernels; where loops are looked for at all."""
    before, after = pattern.split("*")
    titles = (t for t, entry in kernels.items() if t.startswith(before) and t.endswith(after) and entry["paths"])
    return [t[len(before) : len(t) - len(after)] for t in titles]


def _total(kernels: dict[str, Any], loops: Loops, loss: str, path: str) -> list[float]:
    """The sum over a pass's loops of instructions and special-function operations an element."""
    parts = [kernels[title.replace("*", loss)]["paths"][f"{loop}, {path}"] for title, loop in loops]
    return [sum(part[k] for part in parts) for k in (0, 1)]


def _gate_rows(budgets: dict[str, Any]) -> list[list[str]]:
    rows = []
    for unit, kernels in budgets["units"].items():
        dtype, architecture = unit.split()
        if dtype == "double":  # of which the gates say nothing
            continue
        for device, of_two_bytes in budgets["gates"].get(architecture, {}).items():
            gate = [g * DTYPES[dtype] / 2 for g in of_two_bytes]
            for name, loops in FORWARD.items():
                for loss in _losses(kernels, loops[0][0]):
                    both = [_pair(_total(kernels, loops, loss, path), gate) for path in PATHS[:2]]
                    rows.append([device, dtype, loss, name, *both, _pair(gate)])
    return sorted(rows, key=lambda row: row[0])


def _loop_rows(title: str, entry: dict[str, Any]) -> list[list[str]]:
    loops = list(dict.fromkeys(name.partition(",")[0] for name in entry["paths"])) or [""]
    rows = []
    for loop in loops:
        paths = {name: f for name, f in entry["paths"].items() if name.partition(",")[0] == loop}
        figures = [paths.get(f"{loop}, {path}") for path in PATHS]
        if loop in paths:  # without targets
            figures[0] = paths[loop]
        stores = min((f[2] for f in paths.values()), default=0)
        rows.append(
            [
                f"`{title}`",
                *(str(entry[key]) for key in ("registers", "shared", "instructions")),
                loop,
                *(_pair(f) if f else "" for f in figures),
                f"{stores:g}" if stores else "",
            ]
        )
    return rows


def render(budgets: dict[str, Any]) -> str:
    text = _HEAD.format(nvcc=budgets["nvcc"]) + _GATES + "\n"
    text += _table(["device", "logits", "loss", "strategy", "csr", "bool", "gate"], _gate_rows(budgets))
    head = ["kernel", "registers", "shared bytes", "instructions in all", "loop", *PATHS, "bytes a store"]
    for unit, kernels in budgets["units"].items():
        rows = [row for title, entry in kernels.items() for row in _loop_rows(title, entry)]
        text += f"\n## {unit}\n\n" + _table(head, rows)
    return text
