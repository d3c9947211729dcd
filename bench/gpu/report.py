"""What a run on a GPU has to reach, and its tables: the long one, and the short one that is printed last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from ..competitors import LABELS
from ..measure import Remembered
from ..report import Gate, memory_gates, table
from .baselines import HostTime
from .matrix import MAIN_LABELS
from .measure import Timed

__all__ = ["all_gates", "gate_summary", "headline", "missed", "time_table", "times_as_json"]

_FLOOR, _SPLIT, _FORWARD, _HOST_US = 0.90, 0.85, 0.95, 30.0
_TRITON_FLOOR, _TRITON_COMPILE = 0.75, 1.0  # where one read from memory is possible; never slower than torch.compile
_EAGER_TIMES, _COMPILE_TIMES = 8.0, {True: 1.5, False: 2.5}  # element-wise losses, row-wise ones
_EAGER_PEERS = ("plain", "float32", "torchvision", "eager")
_LEAST_LABELS = 8_192  # below, a launch takes longer than the bytes

Bandwidth = dict[str, dict[str, Any]]


def _share(nbytes: int, timed: Timed, bandwidth: Bandwidth, of: str) -> float:
    """Bytes over time, as a fraction of what a kernel of the same run reached."""
    return nbytes / (timed.median / 1e3) / bandwidth[of]["bytes_per_second"]


def _floor(timed: Timed, bandwidth: Bandwidth) -> float:
    return _share(timed.floor_bytes, timed, bandwidth, "read" if timed.mode == "forward" else "copy")


def _where(timed: Timed) -> str:
    layout = "CSR" if timed.competitor == "csr" else "dense"
    return f"{timed.case}, {timed.rows} x {timed.labels:,}, {timed.dtype}, {layout}, {timed.strategy}"


def _inputs(timed: Timed) -> tuple[Any, ...]:
    return timed.case, timed.dtype, timed.rows, timed.labels


def _by_inputs(times: Sequence[Timed]) -> dict[tuple[Any, ...], list[Timed]]:
    """What is compared with one another: results are written often, so that no time is looked up among all."""
    found = defaultdict(list)
    for timed in times:
        found[_inputs(timed)].append(timed)
    return found


def _same_inputs(times: Sequence[Timed], timed: Timed) -> list[Timed]:
    return [t for t in times if _inputs(t) == _inputs(timed) and t.mode == "step" and t.ms]


def _fastest(times: Sequence[Timed], timed: Timed, names: Sequence[str]) -> float | None:
    """Milliseconds of the fastest right one of these peers on the same inputs."""
    return min((t.median for t in _same_inputs(times, timed) if t.competitor in names), default=None)


def _ratio(times: Sequence[Timed], timed: Timed, names: Sequence[str]) -> float | None:
    peer = _fastest(times, timed, names)
    return None if peer is None else peer / timed.median


def _bytes_gates(timed: Timed, bandwidth: Bandwidth) -> Iterator[tuple[str, Gate]]:
    """The bytes of ours over time, by strategy. Streaming has no gate: it reads twice, and cannot reach the floor."""
    where = _where(timed)
    if timed.strategy == "triton":
        if timed.mode == "step" and timed.planned_bytes == timed.floor_bytes:
            yield "Triton, of the floor", Gate(where, _floor(timed, bandwidth), _TRITON_FLOOR, False)
    elif timed.mode == "forward":
        yield "forward, of read-only bandwidth", Gate(where, _floor(timed, bandwidth), _FORWARD, False)
    elif timed.mode == "step" and timed.strategy == "split":
        moved = _share(timed.planned_bytes, timed, bandwidth, "copy")
        yield "split, of the bytes that the plan moves", Gate(where, moved, _SPLIT, False)
    elif timed.mode == "step" and timed.strategy != "streaming":
        yield f"{timed.strategy}, of the floor", Gate(where, _floor(timed, bandwidth), _FLOOR, False)


def _peer_gates(times: Sequence[Timed], timed: Timed) -> Iterator[tuple[str, Gate]]:
    where = _where(timed)
    if timed.mode == "step" and timed.strategy == "triton":
        compiled = _ratio(times, timed, ("float32-compile",))
        if compiled is not None:
            yield "Triton, times faster than torch.compile", Gate(where, compiled, _TRITON_COMPILE, False)
    if timed.mode != "step" or not timed.default:
        return
    eager = _ratio(times, timed, _EAGER_PEERS)
    if eager is not None:
        yield "times faster than the fastest eager", Gate(where, eager, _EAGER_TIMES, False)
    compiled = _ratio(times, timed, ("float32-compile",))
    if compiled is not None:
        yield "times faster than torch.compile", Gate(where, compiled, _COMPILE_TIMES[timed.element_wise], False)
    dense = [t for t in _same_inputs(times, timed) if t.competitor == "fused" and t.default]
    if timed.competitor == "csr" and dense:
        yield "CSR, of the time with dense targets", Gate(where, timed.median / dense[0].median, 1.0, True)


def all_gates(
    times: Sequence[Timed], bandwidth: Bandwidth, host: Sequence[HostTime], memory: Sequence[Remembered]
) -> dict[str, list[Gate]]:
    """Every gate by its kind; what is not measured has none."""
    found: dict[str, list[Gate]] = {}
    alike = _by_inputs(times)
    for timed in times:
        if timed.ours and timed.ms and timed.labels >= _LEAST_LABELS and timed.dtype in ("bfloat16", "float32"):
            for kind, gate in (*_bytes_gates(timed, bandwidth), *_peer_gates(alike[_inputs(timed)], timed)):
                found.setdefault(kind, []).append(gate)
    for one in host:
        if one.mode == "step":
            where = f"{one.case}, {one.rows} x {one.labels:,}, {LABELS[one.competitor]}"
            found.setdefault("host time a call, µs", []).append(Gate(where, one.median, _HOST_US, True))
    if memory:
        found["peak memory, in logits"] = memory_gates(memory)
    return found


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def time_table(times: Sequence[Timed], bandwidth: Bandwidth) -> str:
    """Every time of some groups."""
    head = ("", "mode", "strategy", "median ms", "of the floor", "of the plan", "x eager", "x compile")
    rows, untimed = [], []
    for timed in times:
        name = f"{timed.case}: {LABELS[timed.competitor]}"
        if not timed.ms:
            untimed.append(f"NOT TIMED: {name}, {timed.mode}, {timed.strategy}: {timed.failure}")
            continue
        ours = timed.ours and timed.mode == "step"
        rows.append(
            (
                name,
                timed.mode,
                timed.strategy + ("*" if timed.default else ""),
                f"{timed.median:.4f}",
                _percent(_floor(timed, bandwidth)),
                _percent(_share(timed.planned_bytes, timed, bandwidth, "copy")) if ours else "",
                _times(_ratio(times, timed, _EAGER_PEERS)) if ours else "",
                _times(_ratio(times, timed, ("float32-compile",))) if ours else "",
            )
        )
    return "\n".join([table(head, rows), *untimed])


def headline(times: Sequence[Timed], bandwidth: Bandwidth, memory: Sequence[Remembered], dry: bool) -> str:
    """One line a loss at the main size, bfloat16: the planner's own choice."""
    head = (
        "",
        "rows x labels",
        "strategy",
        "ms",
        "of the floor",
        "CSR ms",
        "of the floor",
        "x eager",
        "x compile",
        "peak",
    )
    peaks = {row.case: row.peak for row in memory if row.competitor == "fused"}
    rows = []
    for dense in times:
        main = dense.dtype == "bfloat16" and (dry or dense.labels == MAIN_LABELS)
        if not (main and dense.ms and dense.default and dense.mode == "step" and dense.competitor == "fused"):
            continue
        csr = [t for t in _same_inputs(times, dense) if t.competitor == "csr" and t.default]
        rows.append(
            (
                dense.case,
                f"{dense.rows} x {dense.labels:,}",
                dense.strategy,
                f"{dense.median:.4f}",
                _percent(_floor(dense, bandwidth)),
                f"{csr[0].median:.4f}" if csr else "",
                _percent(_floor(csr[0], bandwidth)) if csr else "",
                _times(_ratio(times, dense, _EAGER_PEERS)),
                _times(_ratio(times, dense, ("float32-compile",))),
                f"{peaks[dense.case]:.2f}" if dense.case in peaks else "",
            )
        )
    return table(head, rows)


def gate_summary(found: dict[str, list[Gate]], dry: bool) -> str:
    """A line a kind of gate, with its worst case; every miss counts."""
    rows = []
    for kind, gates in found.items():
        worst = (max if gates[0].at_most else min)(gates, key=lambda gate: gate.measured / gate.wanted)
        met = sum(gate.passed for gate in gates)
        verdict = "dry run" if dry else "met" if met == len(gates) else "NOT MET"
        wanted = f"{'<=' if worst.at_most else '>='} {worst.wanted:g}"
        rows.append((kind, f"{met} of {len(gates)}", verdict, wanted, f"{worst.measured:.2f}", worst.what))
    return table(("gate", "met", "verdict", "wanted", "worst", "at"), rows)


def missed(found: dict[str, list[Gate]]) -> list[str]:
    """A line for each gate that is not met."""
    return [
        f"not met: {gate.what}: {gate.measured:.2f} {kind}, wanted {'<=' if gate.at_most else '>='} {gate.wanted:g}"
        for kind, gates in found.items()
        for gate in gates
        if not gate.passed
    ]


def times_as_json(times: Sequence[Timed], bandwidth: Bandwidth) -> list[dict[str, Any]]:
    """All samples, with the figures drawn from them."""
    rows, alike = [], _by_inputs(times)
    for timed in times:
        row: dict[str, Any] = {**vars(timed)}
        if timed.ms:
            row["median_ms"] = timed.median
            row["of_the_floor"] = _floor(timed, bandwidth)
            if timed.ours and timed.mode == "step":
                row["of_the_plan"] = _share(timed.planned_bytes, timed, bandwidth, "copy")
                row["times_eager"] = _ratio(alike[_inputs(timed)], timed, _EAGER_PEERS)
                row["times_compile"] = _ratio(alike[_inputs(timed)], timed, ("float32-compile",))
        rows.append(row)
    return rows
