"""The control-flow graph of a kernel: basic blocks and their successors."""

import re
from collections import defaultdict
from dataclasses import dataclass

from .sass import Function, Instruction

_JUMPS = ("BRA", "BRX", "BRXU", "JMP", "JMX", "JMXU")
_ENDS = ("EXIT", "RET", "KILL")
BARRIER = "BAR"  # of a thread block
_BARRIER_REGISTER = re.compile(r"\bB\d+\b")
# A predicate in BRA's operands: some threads do not take the branch. @P0 BRA, BRA.U UP0, BRA.DIV UR4.
_CONDITION = re.compile(r"(?<!\w)!?~?(UP|P|UR)\d")


class UnreadableError(ValueError):
    """Machine code that this parser does not understand; a wrong graph would give wrong figures."""


@dataclass
class Block:
    """Instructions that run in sequence, and the indices of the blocks that may follow. A barrier is a block."""

    instructions: list[Instruction]
    next: list[int]


def _is_jump(i: Instruction) -> bool:
    """Return whether an instruction is a jump. On sm_80 some loops end with a call of a label, which never returns."""
    return i.name in _JUMPS or (i.name == "CALL" and any(label.startswith(".L_x_") for label in i.targets))


def _conditional(i: Instruction) -> bool:
    return bool(i.guard) or (_is_jump(i) and bool(_CONDITION.search(i.operands.split("`")[0])))


def _splits_after(i: Instruction) -> bool:
    return _is_jump(i) or i.name in (*_ENDS, "BSYNC", BARRIER)


def _starts(function: Function) -> list[int]:
    starts = {0, *function.labels.values()}
    starts |= {place + 1 for place, i in enumerate(function.instructions) if _splits_after(i)}
    starts |= {place for place, i in enumerate(function.instructions) if i.name == BARRIER}
    return sorted(s for s in starts if s < len(function.instructions))


def _reconvergence(function: Function) -> dict[str, list[str]]:
    """Return the labels that BSSY gives for each barrier register: where waiting threads continue."""
    targets: dict[str, list[str]] = defaultdict(list)
    for i in function.instructions:
        if i.name == "BSSY":
            targets[_BARRIER_REGISTER.findall(i.operands)[0]] += i.targets
    return targets


def _after_wait(function: Function, place: int, waits: dict[str, list[str]]) -> list[int]:
    """Return the places that may follow BSYNC. If the next instruction is among them, it is the only one."""
    register = _BARRIER_REGISTER.findall(function.instructions[place].operands)[0]
    places = sorted({function.labels[label] for label in waits[register]})
    return [place + 1] if place + 1 in places else places


def _successors(function: Function, place: int, waits: dict[str, list[str]]) -> list[int]:
    """Return the places in the function that may follow the instruction at `place`."""
    i = function.instructions[place]
    go_on = [place + 1] if place + 1 < len(function.instructions) else []
    if i.name in _ENDS:
        return go_on if i.guard else []
    if i.name == "BSYNC":
        return sorted({*_after_wait(function, place, waits), *(go_on if i.guard else [])})
    if not _is_jump(i):
        return go_on
    if not i.targets:
        raise UnreadableError(f"{function.symbol}: {i.opcode} {i.operands} at {i.address:#x} names no target")
    taken = [function.labels[label] for label in i.targets]
    return sorted({*taken, *(go_on if _conditional(i) else [])})


def blocks_of(function: Function) -> list[Block]:
    """Return basic blocks in order, the kernel's entry first. A call counts as one instruction: calls are rare."""
    starts = _starts(function)
    index = {start: b for b, start in enumerate(starts)}
    waits = _reconvergence(function)
    blocks = []
    for start, end in zip(starts, [*starts[1:], len(function.instructions)], strict=True):
        places = _successors(function, end - 1, waits)
        blocks.append(Block(function.instructions[start:end], [index[p] for p in places]))
    return blocks


def _reached(edges: list[list[int]], start: int, within: set[int]) -> set[int]:
    """Return the blocks that one or more edges lead to from a block, all of them within a set."""
    found: set[int] = set()
    rest = [start]
    while rest:
        more = [n for n in edges[rest.pop()] if n in within and n not in found]
        found.update(more)
        rest += more
    return found


def innermost_loop(blocks: list[Block], inside: int) -> set[int]:
    """Return the smallest loop around a block, with the loops in it; an empty set if there is none."""
    after = [block.next for block in blocks]
    before: list[list[int]] = [[] for _ in blocks]
    for b, block in enumerate(blocks):
        for n in block.next:
            before[n].append(b)
    loop: set[int] = set()
    within = set(range(len(blocks)))
    while inside in within:
        inner = _reached(after, inside, within) & _reached(before, inside, within)
        if inside not in inner:
            break
        loop = inner
        # A loop within this one does not need the blocks at which this one is entered.
        within = {b for b in loop if loop.issuperset(before[b])}
        if within == loop:
            break
    return loop
