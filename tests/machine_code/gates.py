"""Gates: the most that a forward pass with gradient may cost, by loss and whatever the budgets are."""

import math
from dataclasses import dataclass

from .budgets import Entry

Units = dict[str, dict[str, Entry]]
_EITHER = ("csr", "bool")

# By launch strategy and targets, the kernels and paths of a forward pass with gradient, * for the same loss.
FORWARD: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "team": {
        "csr": (("team_rows<*, kSparse>", "row, csr"),),
        "bool": (("team_rows<*, kBools>", "row, bool"),),
    },
    "element-wise": {targets: (("element_wise<*>", f"gradient, {targets}"),) for targets in _EITHER},
    "split": {
        targets: (("row_statistics<*>", f"statistics, {targets}"), ("backward<*, false>", f"gradient, {targets}"))
        for targets in _EITHER
    },
}


@dataclass(frozen=True)
class Gate:
    """The most that an element may cost."""

    strategy: str
    instructions: float
    special: float = math.inf


# Tversky's and Jaccard's losses are Dice with other parameters.
GATES = {
    "Zlpr": Gate("team", 15),
    "Lsep": Gate("team", 15),
    "MultiPositiveCrossEntropy": Gate("team", 15),
    "DecoupledSoftmax": Gate("team", 15),
    "Dice": Gate("team", 21, 3),
    "DiceAndZlpr": Gate("team", 30),
    "Bce": Gate("element-wise", 15),
    "SigmoidFocal": Gate("element-wise", 28),
    "Asymmetric": Gate("element-wise", 42),
}

# The units that the gates apply to, with a factor of their instructions.
GATED = {"bfloat16 sm_90": 1.0, "half sm_90": 1.0, "bfloat16 sm_80": 1.1, "bfloat16 sm_100": 1.1}

# Gates that are exceeded, by unit, loss and targets, with the reason. One that is not exceeded any more must go.
EXCEPTIONS = {("bfloat16 sm_100", "DecoupledSoftmax", "bool"): "it joins the sums of a row twice"}


@dataclass(frozen=True)
class Cost:
    """The figures of a forward pass with gradient: of an element, summed over its kernels, and of a thread."""

    instructions: float
    special: float
    registers: int


def costs(kernels: dict[str, Entry], strategy: str, targets: str) -> dict[str, Cost]:
    """Return what a strategy costs by loss, for the losses that have it."""
    parts = FORWARD[strategy][targets]
    before, after = parts[0][0].split("*")
    found = {}
    for title in kernels:
        loss = title.removeprefix(before).removesuffix(after)
        entries = [(kernels.get(pattern.replace("*", loss)), path) for pattern, path in parts]
        figures = [(*entry.paths[path], entry.registers) for entry, path in entries if entry and path in entry.paths]
        if len(figures) == len(parts):
            instructions, special, registers = zip(*figures, strict=True)
            found[loss] = Cost(sum(instructions), sum(special), max(registers))
    return found


def exceeded(units: Units) -> dict[tuple[str, str, str], str]:
    """Return a text on each gate that is exceeded, by unit, loss and targets."""
    found = {}
    for unit in units.keys() & GATED.keys():
        for loss, gate in GATES.items():
            for targets in FORWARD[gate.strategy]:
                cost = costs(units[unit], gate.strategy, targets).get(loss)
                most = gate.instructions * GATED[unit]
                if cost and (cost.instructions > most or cost.special > gate.special):
                    text = f"{cost.instructions:.1f} instructions, {cost.special:.1f} special functions"
                    found[unit, loss, targets] = f"{unit}: {loss}, {targets}: {text}; its gate is {most:.3g}"
    return found


def problems(units: Units) -> list[str]:
    """Return gates that are exceeded without an exception, and exceptions that are not needed."""
    over = exceeded(units)
    return [text for key, text in over.items() if key not in EXCEPTIONS] + [
        f"{', '.join(key)}: the gate is kept; gates.py must not list an exception"
        for key in EXCEPTIONS
        if key[0] in units and key not in over
    ]
