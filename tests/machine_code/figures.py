"""The figures of each kernel, read from its machine code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from .build import Resources, Unit, demangle
from .graph import Block, blocks_of
from .kernels import DTYPES, EXPONENTIAL, KERNELS, TRIPS, Loop, entry_for
from .paths import CHUNK, Demand, Path, cheapest
from .sass import Function, parse

_KERNEL = re.compile(r"mlloss::cuda::(\w+)(?:<(.*?)>)?\((?!mlloss::cuda::FastPath\))")
_FAST_PATHS = {"FastPath)1": "kSparse", "FastPath)2": "kBools"}
_LOGITS = ("__nv_bfloat16", "__half", "float", "double")


@dataclass
class Kernel:
    """One kernel for one dtype and architecture."""

    title: str  # the template with its arguments: "team_rows<Zlpr, kSparse>"
    unit: str  # "bfloat16 sm_90"
    resources: Resources
    instructions: int
    local: int  # instructions that access local memory
    drops_nan: int  # minima that return their other operand for a NaN
    paths: dict[str, Path | None] = field(default_factory=dict)  # by loop and path: "row, csr"


def title_of(demangled: str) -> str:
    """Return a kernel's template with its arguments, without namespaces and the logits' dtype."""
    match = _KERNEL.search(demangled)
    if not match:
        raise ValueError(f"{demangled} is not named as the kernels of csrc/cuda are")
    arguments = [a.strip().rpartition("::")[2] for a in (match[2] or "").split(",")]
    kept = [_FAST_PATHS.get(a, a) for a in arguments if a and a not in _LOGITS]
    return f"{match[1]}<{', '.join(kept)}>" if kept else match[1]


def _cheapest(blocks: list[Block], dtype: str, loop: Loop, dense: bool, avoid: frozenset[int]) -> Path | None:
    lanes = CHUNK // DTYPES[dtype]
    demand = Demand(
        lanes,
        EXPONENTIAL[dtype],
        loop.stores,
        loop.exponentials,
        loop.barriers,
        target_width=lanes if dense else 0,  # bool: a byte an element
        others=loop.others,
        avoid=avoid,
    )
    found = (cheapest(blocks, replace(demand, chunks=chunks)) for chunks in loop.turns(dtype))
    return min((path for path in found if path), key=lambda path: path.issued, default=None)


def _paths(blocks: list[Block], dtype: str, loops: tuple[Loop, ...]) -> Iterator[tuple[str, Path | None]]:
    seen: dict[bool, frozenset[int]] = {}
    for loop in loops if dtype in TRIPS else ():
        if not loop.apart:
            seen = {False: frozenset(), True: frozenset()}
        for name in loop.paths:
            dense = name.startswith("bool")
            # Each body is the cheapest one besides those before it, which have the same targets and fewer positives.
            path = _cheapest(blocks, dtype, loop, dense, seen[dense])
            if path:
                seen[dense] |= path.addresses(EXPONENTIAL[dtype])
            yield f"{loop.name}, {name}", path


def _kernel(unit: Unit, function: Function, demangled: str) -> Kernel:
    title = title_of(demangled)
    code = function.instructions
    local = sum(i.local for i in code)
    drops_nan = sum(i.drops_nan for i in code)
    kernel = Kernel(title, unit.name, unit.resources[function.symbol], len(code), local, drops_nan)
    kernel.paths.update(_paths(blocks_of(function), unit.dtype, KERNELS.get(entry_for(title) or "", ())))
    return kernel


def kernels_of(unit: Unit) -> list[Kernel]:
    functions = parse(unit.sass)
    names = demangle([f.symbol for f in functions])
    kernels = sorted((_kernel(unit, f, names[f.symbol]) for f in functions), key=lambda k: k.title)
    twice = [k.title for k, following in pairwise(kernels) if k.title == following.title]
    if twice:
        raise ValueError(f"{unit.name}: several kernels are called {twice[0]}")
    return kernels
