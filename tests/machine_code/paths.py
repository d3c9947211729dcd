"""The cheapest path around a loop that does the loop's work.

A kernel's options are branches, so the size of its loop does not tell how many instructions are executed. The figure
that counts is one trip around the loop by the common path: through the loads of the logits, an exponential an element,
and the stores of the gradient, in accesses of 16 bytes. Every path must contain these, and the cheapest one skips what
the common case skips.

A loop over rows has two visits of a row's chunks with barriers between them. Its trip begins with the loads of a row,
takes the sums of the first visit, passes the barriers, and stores the gradient in the second visit.
"""

import heapq
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .graph import BARRIER, Block, innermost_loop
from .sass import Instruction

CHUNK = 16  # bytes
_VOTES = ("VOTE", "VOTEU")


class Progress(NamedTuple):
    """The work that a trip has done so far, or that a block does."""

    loads: int = 0  # of 16 bytes of logits
    barriers: int = 0
    operations: int = 0  # the arithmetic of the current visit
    stores: int = 0  # of 16 bytes
    targets: int = 0  # loads of the dense targets of a chunk
    votes: int = 0  # of warps; a trip's progress has none
    counted: int = 0  # the arithmetic since the last vote


@dataclass(frozen=True)
class Demand:
    """The work that one trip around a loop must do."""

    lanes: int  # elements in 16 bytes
    arithmetic: str  # the operation that elements need, by the beginning of its opcode
    stores: bool  # whether it stores the gradient; if not, it stores nothing
    an_element: tuple[float, ...] = (1.0,)  # the arithmetic of an element in each visit, at least
    barriers: int = 0  # between the first visit and the last one
    chunks: int = 1  # a trip
    target_width: int = 0  # bytes of the load of a chunk's dense targets; 0: no targets
    others: bool = False  # whether it may load more than logits and targets
    avoid: frozenset[int] = frozenset()  # addresses that the path must not contain

    @cached_property
    def operations(self) -> tuple[int, ...]:
        """The arithmetic of a chunk in each visit."""
        return tuple(math.ceil(a * self.lanes) for a in self.an_element)

    @cached_property
    def goal(self) -> Progress:
        return Progress(
            self.chunks,
            self.barriers,
            self.operations[-1] * self.chunks,
            self.chunks if self.stores else 0,
            self.chunks if self.target_width else 0,
        )

    def is_source(self, i: Instruction) -> bool:
        return i.name == "LDG" and i.width >= CHUNK

    def is_target(self, i: Instruction) -> bool:
        # Rows read other things of that width too, but keep those in the first-level cache.
        streams = not self.barriers or ".NA" in i.opcode
        return self.target_width > 0 and i.loads_global and i.width == self.target_width and streams

    def forbids(self, i: Instruction) -> bool:
        # A store under a predicate does not happen where no gradient is wanted.
        stores = i.stores_global and not self.stores and not i.guard
        if i.address in self.avoid or (i.name == BARRIER and not self.barriers) or stores:
            return True
        if self.is_source(i) or self.is_target(i) or self.others:
            return False
        return i.loads_global or (i.stores_global and i.width < CHUNK)

    def gain(self, block: Block) -> Progress | None:
        """Return what a block contributes; None if no trip may contain it."""
        code = block.instructions
        if any(map(self.forbids, code)):
            return None
        return Progress(
            sum(i.width // CHUNK for i in code if self.is_source(i)),
            sum(i.name == BARRIER for i in code),
            sum(i.opcode.startswith(self.arithmetic) for i in code),
            sum(i.width // CHUNK for i in code if i.stores_global),
            sum(map(self.is_target, code)),
            sum(i.name in _VOTES for i in code),
        )

    def advance(self, p: Progress, gain: Progress) -> Progress | None:
        """Return the progress after a block; None if it has too much of something or what it has comes too early."""
        first, last = p.barriers == 0, p.barriers == self.barriers
        if gain.barriers:  # a block of its own
            done = p.loads == self.chunks and p.operations == self.operations[0] * self.chunks
            passes = not last and (done or not first)
            return p._replace(barriers=p.barriers + 1, operations=0, counted=0) if passes else None
        loads, targets = p.loads + gain.loads, p.targets + gain.targets
        if loads > self.chunks or targets > self.goal.targets or (gain.loads and not first):
            return None
        if not (first or last):
            return p._replace(targets=targets)
        most = self.operations[0 if first else -1]
        operations = min(gain.operations, most * self.chunks - p.operations)
        counted = 0
        if self.barriers:
            # In a loop over rows a warp votes on each chunk, and may have none: two operations of each element do not
            # stand for two chunks.
            operations = min(operations, most - p.counted)
            counted = 0 if gain.votes else p.counted + operations
        stores = min(p.stores + gain.stores, self.goal.stores) if last else 0
        return Progress(loads, p.barriers, p.operations + operations, stores, targets, 0, counted)


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
    """Return the cheapest cycle through a block that meets the demand: Dijkstra's search over blocks and progress.

    In a loop over chunks it stays in the innermost loop around the block: what is outside is rare.
    """
    loop = set(gains) if demand.barriers else innermost_loop(blocks, start) & gains.keys()
    first = demand.advance(Progress(), gains[start])
    if first is None:
        return []
    cost: dict[State, int] = {(start, first): 0}
    before: dict[State, State] = {}
    queue = [(0, start, first)]
    while queue:
        spent, block, progress = heapq.heappop(queue)
        if spent > cost[block, progress]:
            continue
        for following in blocks[block].next:
            if following == start and progress[:5] == demand.goal[:5]:
                return _trace(before, (block, progress))
            if following == start or following not in loop:
                continue
            reached = demand.advance(progress, gains[following])
            total = spent + len(blocks[following].instructions)
            if reached is not None and total < cost.get((following, reached), _UNREACHED):
                cost[following, reached] = total
                before[following, reached] = (block, progress)
                heapq.heappush(queue, (total, following, reached))
    return []


def cheapest(blocks: list[Block], demand: Demand) -> Path | None:
    """Return the cheapest trip that meets the demand."""
    gains = {b: gain for b, block in enumerate(blocks) if (gain := demand.gain(block)) is not None}
    trips = [_cycle_from(blocks, start, gains, demand) for start, gain in gains.items() if gain.loads]
    found = [tuple(i for b in trip for i in blocks[b].instructions) for trip in trips if trip]
    return Path(min(found, key=len), demand.chunks * demand.lanes) if found else None
