"""The cheapest way around a loop that does what the loop is there for.

A kernel's options are branches, so how many instructions its loop holds says little about how many are executed.
What counts is one trip around by the common path: through the load of the logits, an exponential an element, and the
store of the gradient. Any path must go through these, and the cheapest one skips what the common case skips.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .graph import Block
from .sass import Instruction

CHUNK = 16  # bytes

# Barriers of a block or cluster stand between loops, never in one over a thread's chunks.
_BARRIERS = ("BAR", "UCGABAR_ARV", "UCGABAR_WAIT")


@dataclass(frozen=True)
class Demand:
    """What one trip around a loop must contain."""

    lanes: int  # elements in 16 bytes
    arithmetic: str  # the operation of which every element needs one, as an opcode's beginning; "" for none
    stores: bool  # the gradient, in whatever pieces; or no store at all
    source: tuple[str, ...] = ("LDG", "LDS", "LDGSTS")  # where the logits come from; each of `all_of` too
    target_width: int = 0  # bytes of the dense targets' load, 0 for none
    avoid: frozenset[int] = frozenset()  # addresses of arithmetic that the path must not contain


@dataclass(frozen=True)
class Path:
    """One trip around a loop."""

    blocks: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    elements: int

    @property
    def issued(self) -> float:
        return len(self.instructions) / self.elements

    @property
    def special(self) -> float:
        return sum(i.special for i in self.instructions) / self.elements

    def accesses(self) -> Counter[str]:
        """Accesses to global memory by opcode."""
        return Counter(i.opcode for i in self.instructions if i.loads_global or i.stores_global or i.name == "LDGSTS")

    def arithmetic(self, opcode: str) -> frozenset[int]:
        return frozenset(i.address for i in self.instructions if i.opcode.startswith(opcode))


# Progress of a trip: chunks loaded, bytes stored, operations of the arithmetic, whether targets were loaded.
Progress = tuple[int, int, int, int]


def _is_source(i: Instruction, demand: Demand) -> bool:
    return i.name in demand.source and i.width >= CHUNK


def _is_target(i: Instruction, demand: Demand) -> bool:
    return demand.target_width > 0 and i.loads_global and i.width == demand.target_width


def _progress_of(block: Block, demand: Demand) -> Progress:
    loads = stores = operations = targets = 0
    for i in block.instructions:
        loads += i.width // CHUNK if _is_source(i, demand) else 0
        stores += i.width if i.stores_global else 0
        operations += bool(demand.arithmetic) and i.opcode.startswith(demand.arithmetic)
        targets += _is_target(i, demand)
    return loads, stores, operations, targets


def _forbidden(block: Block, demand: Demand) -> bool:
    return any(
        i.name in _BARRIERS
        or i.address in demand.avoid
        or (i.stores_global and not demand.stores)
        or (i.loads_global and not _is_source(i, demand) and not _is_target(i, demand))
        for i in block.instructions
    )


def _goal(demand: Demand) -> Progress:
    return 1, CHUNK if demand.stores else 0, demand.lanes if demand.arithmetic else 0, int(demand.target_width > 0)


def _add(a: Progress, b: Progress, goal: Progress) -> Progress:
    return (
        min(a[0] + b[0], goal[0]),
        min(a[1] + b[1], goal[1]),
        min(a[2] + b[2], goal[2]),
        min(a[3] + b[3], goal[3]),
    )


def _cycle_from(blocks: list[Block], start: int, gains: dict[int, Progress], goal: Progress) -> tuple[int, list[int]]:
    """The cheapest cycle from a block back to itself that reaches the goal: its instructions and its blocks."""
    first = (start, _add((0, 0, 0, 0), gains[start], goal))
    cost = {first: 0}
    before: dict[tuple[int, Progress], tuple[int, Progress]] = {}
    queue = [(0, *first)]
    while queue:
        spent, block, progress = heapq.heappop(queue)
        if spent > cost[block, progress]:
            continue
        spent += len(blocks[block].instructions)
        for following in blocks[block].next:
            if following == start and progress == goal:
                return spent, _trace(before, (block, progress))
            if following == start or following not in gains:
                continue
            state = (following, _add(progress, gains[following], goal))
            if spent < cost.get(state, 1 << 30):
                cost[state] = spent
                before[state] = (block, progress)
                heapq.heappush(queue, (spent, *state))
    return 0, []


def _trace(before: dict[tuple[int, Progress], tuple[int, Progress]], last: tuple[int, Progress]) -> list[int]:
    states = [last]
    while states[-1] in before:
        states.append(before[states[-1]])
    return [block for block, _ in reversed(states)]


def cheapest(blocks: list[Block], demand: Demand) -> Path | None:
    """The cheapest trip, an element, that meets the demand."""
    gains = {b: _progress_of(block, demand) for b, block in enumerate(blocks) if not _forbidden(block, demand)}
    goal = _goal(demand)
    best: Path | None = None
    for start, gain in gains.items():
        if not gain[0]:
            continue
        cost, trip = _cycle_from(blocks, start, gains, goal)
        if not trip:
            continue
        path = _path_of(blocks, trip, demand)
        if best is None or path.issued < best.issued:
            best = path
    return best


def _path_of(blocks: list[Block], trip: Iterable[int], demand: Demand) -> Path:
    trip = tuple(trip)
    instructions = tuple(i for b in trip for i in blocks[b].instructions)
    chunks = sum(i.width // CHUNK for i in instructions if _is_source(i, demand))
    return Path(trip, instructions, chunks * demand.lanes)
