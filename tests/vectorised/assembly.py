"""Which marked loops are vector code, read from the compiler's assembly.

A loop is vectorised if some path from the marker before it to the marker after it contains arithmetic on packed numbers
in the instruction set's widest registers. There may also be scalar versions, for the last elements or for memory that
overlaps. Kernels for double are left out: they serve tests of gradients, and call the C library's scalar functions.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field

from .source import BEGIN, END

REGISTERS = {"baseline": "xmm", "x86_64_v3": "ymm", "x86_64_v4": "zmm"}

_FUNCTION = re.compile(r"^(\w[\w.$]*):")
_LABEL = re.compile(r"^(\.L\w+):")
_JUMP = re.compile(r"^\s+j(\w+)\s+(\.L\w+)\s*$")
_STOP = re.compile(r"^\s+(ret|ud2|jmp)\b")
_BEGIN = re.compile(rf"^\s*# {BEGIN} (.+?)\s*$")
_END = re.compile(rf"^\s*# {END}\s*$")
# Moves, broadcasts, shuffles and bit operations do not count: a copied struct has them too.
_PACKED = re.compile(r"^\s+v?(add|sub|mul|div|sqrt|min|max|cmp\w*|fn?m(add|sub)\d+|cvt\w+2)p[sd]\b")

_DOUBLE = re.compile(r"[<, ]double[,>]")  # among template arguments


@dataclass
class Instances:
    """The instances of a loop, one for each template or inlined copy that the compiler made."""

    vectorised: int = 0
    scalar: list[str] = field(default_factory=list)  # the functions that hold them


def _functions(text: str) -> list[tuple[str, list[str]]]:
    functions: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = _FUNCTION.match(line)
        if match:
            functions.append((match[1], []))
        elif functions:
            functions[-1][1].append(line)
    return functions


def demangled(symbols: list[str]) -> list[str]:
    """Return the names without the list of parameters."""
    tool = shutil.which("c++filt")
    if tool is None:
        raise RuntimeError("c++filt was not found; it is part of binutils, as the assembler is")
    names = subprocess.run([tool], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    return [_without_parameters(name) for name in names.splitlines()]


def _without_parameters(name: str) -> str:
    depth, end = 0, name.rfind(")")
    for k in range(end, -1, -1):
        depth += (name[k] == ")") - (name[k] == "(")
        if depth == 0:
            return name[:k]
    return name


def _region(lines: list[str], labels: dict[str, int], start: int) -> tuple[set[int], bool]:
    """Return the lines that can follow `start`, up to the markers after the loop, and whether they have a loop."""
    open_places, seen, jumps = [start], set(), []
    while open_places:
        k = open_places.pop()
        while k < len(lines) and k not in seen and not _END.match(lines[k]):
            seen.add(k)
            jump = _JUMP.match(lines[k])
            if jump and jump[2] in labels:
                open_places.append(labels[jump[2]])
                jumps.append((k, labels[jump[2]]))
            if _STOP.match(lines[k]):
                break
            k += 1
    return seen, any(target <= k and target in seen for k, target in jumps)


def instances_of(text: str, isa: str) -> dict[str, Instances]:
    """Return the instances of each loop by its name."""
    found: dict[str, Instances] = defaultdict(Instances)
    functions = [(symbol, lines) for symbol, lines in _functions(text) if any(map(_BEGIN.match, lines))]
    names = demangled([symbol for symbol, _ in functions])
    for name, (_, lines) in zip(names, functions, strict=True):
        if _DOUBLE.search(name):
            continue
        labels = {match[1]: k for k, line in enumerate(lines) if (match := _LABEL.match(line))}
        for k, line in enumerate(lines):
            begin = _BEGIN.match(line)
            if not begin:
                continue
            region, has_loop = _region(lines, labels, k + 1)
            if any(_PACKED.match(lines[at]) and REGISTERS[isa] in lines[at] for at in region):
                found[begin[1]].vectorised += 1
            elif has_loop:  # otherwise the compiler knows that nothing is to be done
                found[begin[1]].scalar.append(name)
    return dict(found)
