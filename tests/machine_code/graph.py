"""The control-flow graph of a kernel: basic blocks, and where each can go next."""

import re
from collections import defaultdict
from dataclasses import dataclass

from .sass import Function, Instruction

_JUMPS = ("BRA", "BRX", "BRXU", "JMP", "JMX", "JMXU")
_ENDS = ("EXIT", "RET", "KILL")
_BARRIER_REGISTER = re.compile(r"\bB\d+\b")
# What BRA may name beside its target, if it is taken by some threads only: @P0 BRA, BRA.U UP0, BRA.DIV UR4.
_CONDITION = re.compile(r"(?<!\w)!?~?(UP|P|UR)\d")


class UnreadableError(ValueError):
    """Machine code that this reader does not understand; a wrong graph would give wrong figures."""


@dataclass
class Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    instructions: list[Instruction]
    next: list[int]


def _is_jump(i: Instruction) -> bool:
    return i.name in _JUMPS


def _conditional(i: Instruction) -> bool:
    return bool(i.guard) or (_is_jump(i) and bool(_CONDITION.search(i.operands.split("`")[0])))


def _splits_after(i: Instruction) -> bool:
    return _is_jump(i) or i.name in (*_ENDS, "BSYNC")


def _starts(function: Function) -> list[int]:
    starts = {0, *function.labels.values()}
    starts |= {place + 1 for place, i in enumerate(function.instructions) if _splits_after(i)}
    return sorted(s for s in starts if s < len(function.instructions))


def _reconvergence(function: Function) -> dict[str, list[str]]:
    """Where threads that wait at a barrier register go on: what BSSY said, by register."""
    targets: dict[str, list[str]] = defaultdict(list)
    for i in function.instructions:
        if i.name == "BSSY":
            targets[_BARRIER_REGISTER.findall(i.operands)[0]] += i.targets
    return targets


def _after_wait(function: Function, place: int, waits: dict[str, list[str]]) -> list[int]:
    """The places after BSYNC. Where one of them is the next instruction, that is the one meant."""
    register = _BARRIER_REGISTER.findall(function.instructions[place].operands)[0]
    places = sorted({function.labels[label] for label in waits[register]})
    return [place + 1] if place + 1 in places else places


def _successors(function: Function, place: int, waits: dict[str, list[str]]) -> list[int]:
    """The places in the function that may follow the instruction at `place`."""
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
    """Basic blocks in order; the first is the kernel's entry. Calls count as one instruction: they are rare paths."""
    starts = _starts(function)
    index = {start: b for b, start in enumerate(starts)}
    waits = _reconvergence(function)
    blocks = []
    for start, end in zip(starts, [*starts[1:], len(function.instructions)], strict=True):
        places = _successors(function, end - 1, waits)
        blocks.append(Block(function.instructions[start:end], [index[p] for p in places]))
    return blocks
