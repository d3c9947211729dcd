"""The README's tables, drawn from ``bench/results``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import of_json
from .formulas import MASKING
from .markdown import factor, table

__all__ = ["gpu_block", "rendered", "results_of_gpus"]

_RESULTS = Path(__file__).parent / "results"
_NAMES = {"zlpr": "ZLPR", "focal": "focal", "bce": "BCE", "dice": "Dice"}
_CPU_SHAPE, _GPU_LABELS = (64, 131_072), 131_073

Results = dict[str, Any]


# ---- CPU ----


def _cpu_row(name: str, results: Results) -> list[str]:
    rows, labels = _CPU_SHAPE
    shape = {"case": name, "device": "cpu", "dtype": "float32", "rows": rows, "labels": labels}
    found = next(t for t in results["times"] if shape.items() <= t.items())
    ms = {implementation: summary["median_ms"] for implementation, summary in found["summary"].items()}
    here = {"rows": rows, "labels": labels, "dtype": "float32"}
    # Rows of older results name no shape: they were measured at this one.
    peak = {
        m["competitor"]: m["peak"]
        for m in results["memory"]
        if m["case"] == name and {**here, **m}.items() >= here.items()
    }
    in_place = f"{peak['inplace']:.1f}".removesuffix(".0")
    return [
        _NAMES[name],
        f"{ms['fused'] / ms['copy']:.1f} ({ms['csr'] / ms['copy']:.1f})",
        _over_published(name, ms),
        f"{factor(ms['eager'] / ms['fused'])} · {factor(ms['compile'] / ms['fused'])}",
        f"{peak['fused']:.1f}, or {in_place} in place ({peak['plain']:.1f} · {peak['plain-compile']:.1f})",
    ]


def _over_published(name: str, ms: dict[str, float]) -> str:
    """Return how many times faster ours is; in brackets, from floating targets, where those suit the formula best."""
    ours = ["fused"] if name in MASKING else ["fused", "floating"]
    first, *second = (" · ".join(factor(ms[peer] / ms[own]) for peer in ("plain", "plain-compile")) for own in ours)
    return first + "".join(f" ({each})" for each in second)


def cpu_block(results: Results) -> str:
    """Return the table of ``make bench``."""
    rows, labels = _CPU_SHAPE
    head = (
        "loss",
        "copies of the logits (CSR)",
        "faster than published formula",
        "faster than reference",
        "peak memory",
    )
    loaded = of_json(results, "cpu")
    note = (
        f"Forward + backward, B = {rows}, L = {labels:,}, float32. Time is in copies of the logits, with dense bool\n"
        "targets and, in brackets, CSR targets. *Faster* is against eager · `torch.compile`: the published formula is\n"
        "the bare one as papers and packages write it, on the targets that suit it best (in brackets: ours on the\n"
        "same floating targets); the reference is this package's plain PyTorch. Peak memory is in units of the\n"
        "logits, in brackets the published formula's, eager · compiled.\n\n"
        f"One run of `make bench`: {loaded.provenance}; medians, warm allocator for all.\n"
        "All samples are in `bench/results/cpu.json`, all figures in [docs/benchmarks.md](docs/benchmarks.md)."
    )
    return f"{table(head, [_cpu_row(name, results) for name in _NAMES])}\n\n{note}"


# ---- GPU ----

_NO_GPU = (
    "No GPU figures yet: the CUDA kernels are tested under an emulator on the CPU, and have not run on a GPU\n"
    "(`make gpu`)."
)


def _gpu_row(name: str, results: Results, labels: int) -> list[str]:
    """Return the row of a loss; an empty one if time ran out before that loss."""
    wanted = {"case": name, "dtype": "bfloat16", "labels": labels, "mode": "step", "default": True}
    ours = {t["competitor"]: t for t in results["times"] if wanted.items() <= t.items() and t["ms"]}
    peak = {m["competitor"]: m["peak"] for m in results["memory"] if m["case"] == name}
    if not {"fused", "csr"} <= ours.keys():
        return []
    dense, csr = ours["fused"], ours["csr"]
    return [
        _NAMES[name],
        f"{dense['median_ms']:.3f} ms ({csr['median_ms']:.3f})",
        f"{dense['of_the_floor']:.0%} ({csr['of_the_floor']:.0%})",
        f"{factor(dense['times_eager'])} · {factor(dense['times_compile'])}",
        f"{factor(csr['times_eager'])} · {factor(csr['times_compile'])}",
        f"{peak['fused']:.1f}" if "fused" in peak else "-",
    ]


def _gpu_table(results: Results, labels: int) -> str:
    head = ("loss", "time (CSR)", "of the floor (CSR)", "faster, dense targets", "faster, CSR targets", "peak memory")
    copy, read = (results["bandwidth"][name]["bytes_per_second"] / 1e12 for name in ("copy", "read"))
    met = sum(gate["passed"] for gate in results["gates"])
    versions, driver = results["versions"], results["gpu"].get("before", {}).get("driver_version", "unknown")
    note = (
        f"{results['machine']['gpu']}, L = {labels:,}, bfloat16, forward + backward. *Faster* is against the fastest\n"
        "eager formula · `torch.compile`; peak memory is in units of the logits. The floor is logits, gradient and\n"
        f"targets once each at the speed of a copy ({copy:.2f} TB/s in that run; reading alone {read:.2f}).\n\n"
        f"One run of `make gpu`, torch {versions['torch']}, driver {driver}.\n"
        f"{met} of {len(results['gates'])} gates met; all samples are in `bench/results`."
    )
    rows = filter(None, (_gpu_row(name, results, labels) for name in _NAMES))
    return f"{table(head, list(rows))}\n\n{note}"


def results_of_gpus() -> list[Results]:
    """Read every result of a GPU."""
    return [json.loads(path.read_text()) for path in sorted(_RESULTS.glob("*-bench.json"))]


def gpu_block(found: Sequence[Results], labels: int = _GPU_LABELS) -> str:
    """Return the tables of ``make gpu``, or a sentence that there are none."""
    return "\n\n".join(_gpu_table(results, labels) for results in found) or _NO_GPU


# ---- the README ----


def rendered(text: str) -> str:
    """Return ``text`` with the tables between its markers drawn anew."""
    blocks = {
        "CPU results": cpu_block(json.loads((_RESULTS / "cpu.json").read_text())),
        "GPU results": gpu_block(results_of_gpus()),
    }
    for name, block in blocks.items():
        marked = re.compile(rf"(<!-- {name}: make report -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        # A function, since backslashes of a replacement text would be read as escapes.
        text, count = marked.subn(lambda match, block=block: f"{match[1]}{block}{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"README.md: expected one block of {name}, found {count}")
    return text
