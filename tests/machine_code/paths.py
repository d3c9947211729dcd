"""The cheapest path around a loop that does the loop's work.

A kernel's options are branches, so the size of its loop does not tell how many instructions are executed. The figure
that counts is one trip around the loop by the common path: through the load of the logits, an exponential an element,
and the store of the gradient. Every path must contain these, and the cheapest one skips what the common case skips.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from .graph import Block
from .sass import Instruction

CHUNK = 16  # bytes

# Barriers of a block or cluster are between loops, never inside a loop over a thread's chunks.
_BARRIERS = ("BAR", "UCGABAR_ARV", "UCGABAR_WAIT")

# How logits reach registers: by source, the instructions that each chunk needs one of.
SOURCES: dict[str, tuple[str, ...]] = {
    "copied": ("LDGSTS", "LDS"),  # cp.async into shared memory, and out of it
    "global": ("LDG",),
    "shared": ("LDS",),
}
_WIDE_READS = ("LDG", "LDS", "LDGSTS")

# The progress of a trip: chunks by each instruction of the source, bytes stored, arithmetic, loads of targets.
Progress = tuple[int, ...]


@dataclass(frozen=True)
class Demand:
    """The work that one trip around a loop must do."""

    lanes: int  # elements in 16 bytes
    arithmetic: str  # the operation that elements need, by the beginning of its opcode
    stores: bool  # whether it stores the gradient, in pieces of any size; if not, it stores nothing
    operations: int  # the arithmetic of one chunk, at least
    source: str = "global"
    chunks: int = 1  # a trip, if the loop is unrolled
    target_width: int = 0  # bytes of the load of a chunk's dense targets; 0: no targets
    others: bool = False  # whether it may load more than logits and targets
    avoid: frozenset[int] = frozenset()  # addresses that the path must not contain

    @cached_property
    def goal(self) -> Progress:
        stored = CHUNK * self.chunks if self.stores else 0
        targets = self.chunks if self.target_width else 0
        return (*(self.chunks for _ in SOURCES[self.source]), stored, self.operations * self.chunks, targets)

    def is_source(self, i: Instruction) -> bool:
        return i.name in SOURCES[self.source] and i.width >= CHUNK

    def is_target(self, i: Instruction) -> bool:
        # Targets that were copied ahead are loaded from shared memory.
        return self.target_width > 0 and (i.loads_global or i.loads_shared) and i.width == self.target_width

    def forbids(self, i: Instruction) -> bool:
        if i.name in _BARRIERS or i.address in self.avoid or (i.stores_global and not self.stores):
            return True
        if self.is_source(i) or self.is_target(i) or self.others:
            return False
        return i.loads_global or (i.name in _WIDE_READS and i.width >= CHUNK)

    def gain(self, block: Block) -> Progress | None:
        """Return what a block contributes; None if no trip may contain it."""
        if any(map(self.forbids, block.instructions)):
            return None
        code = block.instructions
        reads = (sum(i.width // CHUNK for i in code if self.is_source(i) and i.name == n) for n in SOURCES[self.source])
        stored = sum(i.width for i in code if i.stores_global)
        operations = sum(i.opcode.startswith(self.arithmetic) for i in code)
        return (*reads, stored, operations, sum(map(self.is_target, code)))

    def advance(self, progress: Progress, gain: Progress) -> Progress | None:
        """Return the progress after a block; None if it has more chunks or targets than one trip takes."""
        reads = len(SOURCES[self.source])
        total = [a + b for a, b in zip(progress, gain, strict=True)]
        if any(total[k] > self.goal[k] for k in (*range(reads), len(total) - 1)):
            return None
        return tuple(map(min, total, self.goal))


@dataclass(frozen=True)
class Path:
    """One trip around a loop."""

    instructions: tuple[Instruction, ...]
    elements: int

    @property
    def issued(self) -> float:
        return len(self.instructions) / self.elements

    @property
    def special(self) -> float:
        return sum(i.special for i in self.instructions) / self.elements

    @property
    def narrowest_store(self) -> int:
        """The bytes of the narrowest store; 0 without stores."""
        return min((i.width for i in self.instructions if i.stores_global), default=0)

    @property
    def accesses(self) -> Counter[str]:
        """The number of accesses to global memory by opcode."""
        return Counter(i.opcode for i in self.instructions if i.loads_global or i.stores_global or i.name == "LDGSTS")

    def addresses(self, opcode: str) -> frozenset[int]:
        return frozenset(i.address for i in self.instructions if i.opcode.startswith(opcode))


_UNREACHED = 1 << 60

State = tuple[int, Progress]  # a block, and the progress after it


def _trace(before: dict[State, State], last: State) -> list[int]:
    states = [last]
    while states[-1] in before:
        states.append(before[states[-1]])
    return [block for block, _ in reversed(states)]


def _cycle_from(blocks: list[Block], start: int, gains: dict[int, Progress], demand: Demand) -> list[int]:
    """Return the cheapest cycle through a block that meets the demand: Dijkstra's search over blocks and progress."""
    progress = demand.advance(tuple(0 for _ in demand.goal), gains[start])
    if progress is None:
        return []
    cost: dict[State, int] = {(start, progress): 0}
    before: dict[State, State] = {}
    queue = [(0, start, progress)]
    while queue:
        spent, block, progress = heapq.heappop(queue)
        if spent > cost[block, progress]:
            continue
        spent += len(blocks[block].instructions)
        for following in blocks[block].next:
            if following == start and progress == demand.goal:
                return _trace(before, (block, progress))
            if following == start or following not in gains:
                continue
            reached = demand.advance(progress, gains[following])
            if reached is not None and spent < cost.get((following, reached), _UNREACHED):
                cost[following, reached] = spent
                before[following, reached] = (block, progress)
                heapq.heappush(queue, (spent, following, reached))
    return []


def _cheapest_by(blocks: list[Block], demand: Demand) -> Path | None:
    gains = {b: gain for b, block in enumerate(blocks) if (gain := demand.gain(block)) is not None}
    best: Path | None = None
    for start, gain in gains.items():
        trip = _cycle_from(blocks, start, gains, demand) if gain[0] else []
        if not trip:
            continue
        instructions = tuple(i for b in trip for i in blocks[b].instructions)
        if best is None or len(instructions) < len(best.instructions):
            best = Path(instructions, demand.chunks * demand.lanes)
    return best


def cheapest(blocks: list[Block], demand: Demand) -> Path | None:
    """Return the cheapest trip that meets the demand, with the logits from the first source that has one."""
    found = (_cheapest_by(blocks, replace(demand, source=source)) for source in SOURCES)
    return next((path for path in found if path), None)
