"""Gates of a GPU, and the shares and ratios that they and the tables use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from ..gates import Gate, memory_gates
from ..implementations import LABELS
from ..markdown import table
from ..memory import Remembered
from ..plan import shape_of
from .baselines import HostTime
from .measure import Timed

__all__ = [
    "COMPILED_PEER",
    "EAGER_PEERS",
    "Bandwidth",
    "all_gates",
    "by_inputs",
    "floor",
    "gate_summary",
    "inputs",
    "missed",
    "share",
    "steps_on_same_inputs",
    "times_faster",
]

_FLOOR, _SPLIT, _FORWARD, _HOST_US = 0.90, 0.85, 0.95, 30.0
_TRITON_FLOOR, _TRITON_COMPILE = 0.75, 1.0  # if one read from memory is possible; never slower than torch.compile
_EAGER_TIMES, _COMPILE_TIMES = 8.0, {True: 1.5, False: 2.5}  # element-wise losses, row-wise losses
EAGER_PEERS, COMPILED_PEER = ("plain", "float32", "torchvision", "eager"), ("float32-compile",)
_LEAST_LABELS = 8_192  # with fewer, a launch takes longer than the bytes

Bandwidth = dict[str, dict[str, Any]]


# ---- shares and ratios ----


def share(nbytes: int, timed: Timed, bandwidth: Bandwidth, of: str) -> float:
    """Return bytes over time, as a fraction of the bandwidth that a kernel of the same run reached."""
    return nbytes / (timed.median / 1e3) / bandwidth[of]["bytes_per_second"]


def floor(timed: Timed, bandwidth: Bandwidth) -> float:
    """Return the share of the floor: the bytes that any kernel has to move, at the bandwidth of a copy or a read."""
    return share(timed.floor_bytes, timed, bandwidth, "read" if timed.mode == "forward" else "copy")


def inputs(timed: Timed) -> tuple[Any, ...]:
    """Return the identity of a call's inputs."""
    return timed.case, timed.dtype, timed.rows, timed.labels


def by_inputs(times: Sequence[Timed]) -> dict[tuple[Any, ...], list[Timed]]:
    """Group times that are compared with each other: results are written often, and a search of all would be slow."""
    found = defaultdict(list)
    for timed in times:
        found[inputs(timed)].append(timed)
    return found


def steps_on_same_inputs(times: Sequence[Timed], timed: Timed) -> list[Timed]:
    """Return the times of forward + backward on the same inputs."""
    return [t for t in times if inputs(t) == inputs(timed) and t.mode == "step" and t.ms]


def times_faster(times: Sequence[Timed], timed: Timed, names: Sequence[str]) -> float | None:
    """Return how many times faster this is than the fastest right one of these peers on the same inputs."""
    peer = min((t.median for t in steps_on_same_inputs(times, timed) if t.implementation in names), default=None)
    return None if peer is None else peer / timed.median


# ---- gates ----


def _where(timed: Timed) -> str:
    layout = "CSR" if timed.implementation == "csr" else "dense"
    return f"{timed.case}, {shape_of(timed.rows, timed.labels)}, {timed.dtype}, {layout}, {timed.strategy}"


def _bytes_gates(timed: Timed, bandwidth: Bandwidth) -> Iterator[tuple[str, Gate]]:
    """Yield gates on our bytes over time."""
    where = _where(timed)
    if timed.strategy == "triton":
        if timed.mode == "step" and timed.planned_bytes == timed.floor_bytes:
            yield "Triton, of the floor", Gate(where, floor(timed, bandwidth), _TRITON_FLOOR, False)
    elif timed.mode == "forward":
        yield "forward, of read-only bandwidth", Gate(where, floor(timed, bandwidth), _FORWARD, False)
    elif timed.mode == "step" and timed.strategy == "split":
        moved = share(timed.planned_bytes, timed, bandwidth, "copy")
        yield "split, of the bytes that the plan moves", Gate(where, moved, _SPLIT, False)
    elif timed.mode == "step":
        yield f"{timed.strategy}, of the floor", Gate(where, floor(timed, bandwidth), _FLOOR, False)


def _peer_gates(times: Sequence[Timed], timed: Timed) -> Iterator[tuple[str, Gate]]:
    where = _where(timed)
    if timed.mode == "step" and timed.strategy == "triton":
        compiled = times_faster(times, timed, COMPILED_PEER)
        if compiled is not None:
            yield "Triton, times faster than torch.compile", Gate(where, compiled, _TRITON_COMPILE, False)
    if timed.mode != "step" or not timed.default:
        return
    eager = times_faster(times, timed, EAGER_PEERS)
    if eager is not None:
        yield "times faster than the fastest eager", Gate(where, eager, _EAGER_TIMES, False)
    compiled = times_faster(times, timed, COMPILED_PEER)
    if compiled is not None:
        yield "times faster than torch.compile", Gate(where, compiled, _COMPILE_TIMES[timed.element_wise], False)
    dense = [t for t in steps_on_same_inputs(times, timed) if t.implementation == "fused" and t.default]
    if timed.implementation == "csr" and dense:
        yield "CSR, of the time with dense targets", Gate(where, timed.median / dense[0].median, 1.0, True)


def all_gates(
    times: Sequence[Timed], bandwidth: Bandwidth, host: Sequence[HostTime], memory: Sequence[Remembered]
) -> dict[str, list[Gate]]:
    """Return every gate by its kind; what is not measured has none."""
    found: dict[str, list[Gate]] = {}
    alike = by_inputs(times)
    for timed in times:
        if timed.ours and timed.ms and timed.labels >= _LEAST_LABELS and timed.dtype in ("bfloat16", "float32"):
            for kind, gate in (*_bytes_gates(timed, bandwidth), *_peer_gates(alike[inputs(timed)], timed)):
                found.setdefault(kind, []).append(gate)
    for one in host:
        if one.mode == "step":
            where = f"{one.case}, {shape_of(one.rows, one.labels)}, {LABELS[one.implementation]}"
            found.setdefault("host time a call, µs", []).append(Gate(where, one.median, _HOST_US, True))
    if memory:
        found["peak memory, in logits"] = memory_gates(memory)
    return found


def gate_summary(found: dict[str, list[Gate]], dry: bool) -> str:
    """Return a line for each kind of gate, with its worst case; every miss counts."""
    rows = []
    for kind, gates in found.items():
        worst = (max if gates[0].at_most else min)(gates, key=lambda gate: gate.measured / gate.wanted)
        met = sum(gate.passed for gate in gates)
        verdict = "dry run" if dry else "met" if met == len(gates) else "NOT MET"
        rows.append((kind, f"{met} of {len(gates)}", verdict, worst.limit, f"{worst.measured:.2f}", worst.what))
    return table(("gate", "met", "verdict", "wanted", "worst", "at"), rows, padded=True)


def missed(found: dict[str, list[Gate]]) -> list[str]:
    """Return a line for each gate that is not met."""
    return [
        f"not met: {gate.what}: {gate.measured:.2f} {kind}, wanted {gate.limit}"
        for kind, gates in found.items()
        for gate in gates
        if not gate.passed
    ]
