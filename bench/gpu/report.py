"""Tables of a run on a GPU, the long one and the short one that is printed last, and its entries in the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..implementations import LABELS
from ..markdown import ratio, table
from ..memory import Remembered
from ..plan import shape_of
from ..samples import as_stored
from .gates import COMPILED_PEER, EAGER_PEERS, Bandwidth, by_inputs, floor, inputs, share, steps_on_same_inputs
from .gates import times_faster as faster
from .measure import Timed
from .plan import MAIN_LABELS

__all__ = ["headline", "time_table", "times_as_json"]


def time_table(times: Sequence[Timed], bandwidth: Bandwidth) -> str:
    """Return every time of some groups."""
    head = ("loss", "mode", "strategy", "median ms", "of the floor", "of the plan", "x eager", "x compile")
    rows, untimed = [], []
    for timed in times:
        name = f"{timed.case}: {LABELS[timed.implementation]}"
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
                f"{floor(timed, bandwidth):.0%}",
                f"{share(timed.planned_bytes, timed, bandwidth, 'copy'):.0%}" if ours else "",
                ratio(faster(times, timed, EAGER_PEERS)) if ours else "",
                ratio(faster(times, timed, COMPILED_PEER)) if ours else "",
            )
        )
    return "\n".join([table(head, rows, padded=True), *untimed])


def headline(times: Sequence[Timed], bandwidth: Bandwidth, memory: Sequence[Remembered], dry: bool) -> str:
    """Return one line for each loss at the main size in bfloat16, by the planner's own choice."""
    head = (
        "loss",
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
    peaks = {row.case: row.peak for row in memory if row.implementation == "fused"}
    rows = []
    for dense in times:
        main = dense.dtype == "bfloat16" and (dry or dense.labels == MAIN_LABELS)
        if not (main and dense.ms and dense.default and dense.mode == "step" and dense.implementation == "fused"):
            continue
        csr = [t for t in steps_on_same_inputs(times, dense) if t.implementation == "csr" and t.default]
        rows.append(
            (
                dense.case,
                shape_of(dense.rows, dense.labels),
                dense.strategy,
                f"{dense.median:.4f}",
                f"{floor(dense, bandwidth):.0%}",
                f"{csr[0].median:.4f}" if csr else "",
                f"{floor(csr[0], bandwidth):.0%}" if csr else "",
                ratio(faster(times, dense, EAGER_PEERS)),
                ratio(faster(times, dense, COMPILED_PEER)),
                f"{peaks[dense.case]:.2f}" if dense.case in peaks else "",
            )
        )
    return table(head, rows, padded=True)


def times_as_json(times: Sequence[Timed], bandwidth: Bandwidth) -> list[dict[str, Any]]:
    """Return all samples with the figures drawn from them."""
    rows, alike = [], by_inputs(times)
    for timed in times:
        row = as_stored(timed)
        if timed.ms:
            row["median_ms"] = timed.median
            row["of_the_floor"] = floor(timed, bandwidth)
            if timed.ours and timed.mode == "step":
                row["of_the_plan"] = share(timed.planned_bytes, timed, bandwidth, "copy")
                row["times_eager"] = faster(alike[inputs(timed)], timed, EAGER_PEERS)
                row["times_compile"] = faster(alike[inputs(timed)], timed, COMPILED_PEER)
        rows.append(row)
    return rows
