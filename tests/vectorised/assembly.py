"""Which marked loops are vector code, read from the compiler's assembly.

A loop is vectorised if some path from the marker before it to the marker after it contains arithmetic on packed numbers
in the instruction set's widest registers. There may also be scalar versions, for the last elements or for memory that
overlaps.
"""

import re
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

_WORK = re.compile(r"^\s+(call|v?\w+[sp][sd])\b")  # a call, or a floating-point instruction of any kind


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


def _region(lines: list[str], labels: dict[str, int], start: int) -> list[str]:
    """Return the lines that can follow `start`, up to the markers after the loop."""
    open_places, seen = [start], set()
    while open_places:
        k = open_places.pop()
        while k < len(lines) and k not in seen and not _END.match(lines[k]):
            seen.add(k)
            jump = _JUMP.match(lines[k])
            if jump and jump[2] in labels:
                open_places.append(labels[jump[2]])
            if _STOP.match(lines[k]):
                break
            k += 1
    return [lines[k] for k in seen]


def instances_of(text: str, isa: str) -> dict[str, Instances]:
    """Return the instances of each loop by its name."""
    found: dict[str, Instances] = defaultdict(Instances)
    for symbol, lines in _functions(text):
        labels = {match[1]: k for k, line in enumerate(lines) if (match := _LABEL.match(line))}
        for k, line in enumerate(lines):
            begin = _BEGIN.match(line)
            if not begin:
                continue
            region = _region(lines, labels, k + 1)
            if any(_PACKED.match(each) and REGISTERS[isa] in each for each in region):
                found[begin[1]].vectorised += 1
            elif any(map(_WORK.match, region)):  # else the compiler knows here that the loop has no elements
                found[begin[1]].scalar.append(symbol)
    return dict(found)
