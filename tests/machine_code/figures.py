"""The figures of each kernel, read from its machine code."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from .build import Resources, Unit, demangle
from .graph import Block, blocks_of
from .kernels import DTYPES, EXPONENTIAL, KERNELS, PATHS, SPARSE_ONLY, UNLISTED, Loop, entry_for
from .paths import CHUNK, Demand, Path, cheapest
from .sass import Function, parse

_KERNEL = re.compile(r"mlloss::cuda::(\w+)(?:<(.*?)>)?\(")
_LOGITS = ("__nv_bfloat16", "__half", "float", "double")


@dataclass
class Kernel:
    """One kernel for one dtype and architecture."""

    title: str  # the template with its arguments: "streaming<Zlpr>"
    unit: str  # "bfloat16 sm_90"
    resources: Resources
    instructions: int
    local: int  # instructions that access local memory
    paths: dict[str, Path | None] = field(default_factory=dict)  # by loop and path: "gradient, csr"


def title_of(demangled: str) -> str:
    """Return a kernel's template with its arguments, without namespaces and the logits' dtype."""
    match = _KERNEL.search(demangled)
    if not match:
        raise ValueError(f"{demangled} is not named as the kernels of csrc/cuda are")
    arguments = [a.strip().rpartition("::")[2] for a in (match[2] or "").split(",")]
    kept = [a for a in arguments if a and a not in _LOGITS]
    return f"{match[1]}<{', '.join(kept)}>" if kept else match[1]


def _demand(dtype: str, loop: Loop, dense: bool, avoid: frozenset[int] = frozenset()) -> Demand:
    lanes = CHUNK // DTYPES[dtype]
    return Demand(
        lanes,
        EXPONENTIAL[dtype],
        loop.stores,
        operations=math.ceil(loop.exponentials * lanes),
        chunks=loop.chunks,
        target_width=lanes if dense else 0,  # bool: a byte an element
        others=loop.others,
        avoid=avoid,
    )


def _loop_paths(blocks: list[Block], dtype: str, loop: Loop) -> Iterator[tuple[str, Path | None]]:
    negatives: frozenset[int] = frozenset()
    for name in loop.paths:
        if dtype in SPARSE_ONLY and name != PATHS[0]:
            continue
        # The body for hard labels is the cheapest one besides the body for negatives.
        avoid = negatives if name == "bool, positives" else frozenset()
        path = cheapest(blocks, _demand(dtype, loop, dense=name != "csr", avoid=avoid))
        if name == "bool" and path:
            negatives = path.addresses(EXPONENTIAL[dtype])
        yield f"{loop.name}, {name}", path


def _kernel(unit: Unit, function: Function, demangled: str) -> Kernel:
    title = title_of(demangled)
    code = function.instructions
    local = sum(i.local for i in code)
    kernel = Kernel(title, unit.name, unit.resources[function.symbol], len(code), local)
    blocks = blocks_of(function)
    entry = entry_for(title)
    for loop in KERNELS[entry] if entry else UNLISTED:
        paths = dict(_loop_paths(blocks, unit.dtype, loop))
        kernel.paths.update(paths if entry else {n: p for n, p in paths.items() if p})
    return kernel


def kernels_of(unit: Unit) -> list[Kernel]:
    functions = parse(unit.sass)
    names = demangle([f.symbol for f in functions])
    kernels = sorted((_kernel(unit, f, names[f.symbol]) for f in functions), key=lambda k: k.title)
    twice = [k.title for k, following in pairwise(kernels) if k.title == following.title]
    if twice:
        raise ValueError(f"{unit.name}: several kernels are called {twice[0]}")
    return kernels
