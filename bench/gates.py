"""Gates: figures that a release has to reach on a CPU. Those of a GPU are in ``bench.gpu.gates``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .implementations import LABELS, all_cases
from .markdown import ratio, table
from .measure import Measured
from .memory import Remembered
from .plan import MAIN_SHAPE, SMALL_SHAPE

__all__ = ["Gate", "gate_table", "gates", "memory_gates", "over"]

# The gates of a release at MAIN_SHAPE on 2 quiet cores, float32: times faster than the reference, times faster than
# torch.compile of the reference, and the most copies of the logits.
_WANTED = {"zlpr": (14.0, 8.0, 4.0), "focal": (9.0, 2.2, 6.0), "dice": (4.0, 2.2, 4.0)}
# The most copies of the logits that a sum of losses takes: one loop for all terms reaches it, a loop a term does not.
_MOST_COPIES = {"zlpr+dice": 4.0, "zlpr+focal+dice": 6.0}
_NOISE = 1.05  # "no slower" allows this
_LEAST_LABELS = 8_192  # with fewer labels, a row's coefficients and the ends of pages count too much


@dataclass(frozen=True)
class Gate:
    """One figure and its limit."""

    what: str
    measured: float
    wanted: float
    at_most: bool
    by_minima: float | None = None  # the same figure from the least disturbed runs
    published: float | None = None  # the same figure against the formula as other packages write it
    quiet: bool = True  # False: the machine was busy, and the figure must be measured again

    @property
    def passed(self) -> bool:
        """True if the figure is within its limit."""
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    @property
    def limit(self) -> str:
        """The limit as tables show it."""
        return f"{'<=' if self.at_most else '>='} {self.wanted:g}"


def over(measured: Measured, name: str, unit: str, minima: bool = False) -> float | None:
    """Return the median time of ``name`` over that of ``unit``, or the ratio of their minima; None without samples."""
    samples = measured.samples
    if name not in samples or unit not in samples:
        return None
    if minima:
        return samples[name].minimum / samples[unit].minimum
    return samples[name].median / samples[unit].median


def _gate(
    m: Measured, what: str, name: str, unit: str, wanted: float, at_most: bool, published: float | None = None
) -> list[Gate]:
    """Return the gate on ``name`` over ``unit``, if both were timed."""
    measured = over(m, name, unit)
    if measured is None:
        return []
    return [Gate(f"{m.case}: {what}", measured, wanted, at_most, over(m, name, unit, True), published, m.quiet)]


def _main_gates(m: Measured) -> list[Gate]:
    eager, compiled, copies = _WANTED[m.case]
    plain, both = over(m, "plain", "fused"), over(m, "plain-compile", "fused")
    return [
        *_gate(m, "times faster than eager", "eager", "fused", eager, False, plain),
        *_gate(m, "times faster than torch.compile", "compile", "fused", compiled, False, both),
        *_gate(m, "copies of the logits", "fused", "copy", copies, True),
    ]


def gates(measured: Sequence[Measured]) -> list[Gate]:
    """Return the gates that these measurements decide; other shapes, GPUs and other dtypes have none."""
    found: list[Gate] = []
    for m in measured:
        if (m.device, m.dtype) != ("cpu", "float32"):
            continue
        if (m.rows, m.labels) == MAIN_SHAPE:
            found += _main_gates(m) if m.case in _WANTED else []
            if m.case in _MOST_COPIES:
                found += _gate(m, "copies of the logits", "fused", "copy", _MOST_COPIES[m.case], True)
            found += _gate(m, "CSR over dense targets", "csr", "fused", _NOISE, True)
        elif (m.rows, m.labels) == SMALL_SHAPE:
            plain = over(m, "fused", "plain")
            found += _gate(m, "64 x 5,000, time over eager's", "fused", "eager", 1.0, True, plain)
    return found


def memory_gates(rows: Sequence[Remembered]) -> list[Gate]:
    """Return the gates on peak memory: the gradients and nothing else, or, in place, nothing at all."""
    wanted = {"fused": 1.05, "csr": 1.05, "inplace": 0.05}
    more = {case.name: case.gradients - 1 for case in all_cases()}
    return [
        Gate(
            f"{row.case}: peak memory, {LABELS[row.implementation]}",
            row.peak,
            wanted[row.implementation] + more.get(row.case, 0),
            True,
        )
        for row in rows
        if row.implementation in wanted and row.labels >= _LEAST_LABELS
    ]


def gate_table(found: Sequence[Gate]) -> str:
    """Return every gate with its verdict."""
    head = ("gate", "measured", "wanted", "verdict", "by minima", "against the published formula")
    rows = [
        (
            gate.what,
            f"{gate.measured:.2f}",
            gate.limit,
            ("pass" if gate.passed else "FAIL") + ("" if gate.quiet else "?"),
            "" if gate.by_minima is None else f"{gate.by_minima:.2f}",
            ratio(gate.published),
        )
        for gate in found
    ]
    passed = sum(gate.passed for gate in found)
    busy = sum(not gate.quiet for gate in found)
    doubt = f"; {busy} measured on a busy machine (?): run again" if busy else ""
    return f"{table(head, rows, padded=True)}\n{passed} of {len(found)} gates pass{doubt}"
