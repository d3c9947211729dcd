"""Pictures of results: time and memory over L, and shares of the floor. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import Figure, Results
from .implementations import LABELS, MAIN

__all__ = ["FOLDER", "NAMES", "draw", "pictures_of"]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images" / "bench"
NAMES = {
    "zlpr": "ZLPR",
    "focal": "focal",
    "bce": "BCE",
    "dice": "Dice",
    "asymmetric": "asymmetric",
    "decoupled_softmax": "decoupled softmax",
    "jaccard": "Jaccard",
    "lsep": "LSEP",
    "margin_bce": "margin BCE",
    "multi_positive_cross_entropy": "multi-positive cross-entropy",
    "symmetric_kl": "symmetric KL",
    "tversky": "Tversky",
    "zlpr+dice": "ZLPR + Dice",
    "zlpr+focal+dice": "ZLPR + focal + Dice",
}
# Okabe and Ito's colours, which colour-blind readers can tell apart; markers are full for ours and hollow for peers.
_STYLES: dict[str, tuple[str, str]] = {
    "fused": ("#0072b2", "o"),
    "csr": ("#56b4e9", "s"),
    "inplace": ("#009e73", "D"),
    "eager": ("#d55e00", "^"),
    "compile": ("#e69f00", "v"),
    "plain": ("#cc79a7", "<"),
    "plain-compile": ("#8c564b", ">"),
    "float32": ("#cc79a7", "h"),
    "float32-compile": ("#8c564b", "H"),
    "torchvision": ("#7f7f7f", "P"),
    "monai": ("#bcbd22", "X"),
    "copy": ("0.25", ""),
}
_OURS = ("fused", "csr", "inplace")


def _dtype(results: Results) -> str:
    return "bfloat16" if results.on_gpu else "float32"


def name_of(case: str) -> str:
    """Return a loss's name as prose has it."""
    return NAMES.get(case, case.replace("_", " "))


def _style(implementation: str) -> dict[str, Any]:
    colour, marker = _STYLES[implementation]
    ours = implementation in _OURS
    return {
        "color": colour,
        "marker": marker,
        "markersize": 5,
        "markerfacecolor": colour if ours else "white",
        "linestyle": "--" if implementation == "copy" else "-",
        "linewidth": 1.8 if ours else 1.2,
    }


def _shown(results: Results, case: str, implementation: str) -> list[Figure]:
    wanted = {"case": case, "implementation": implementation, "dtype": _dtype(results), "mode": "step", "default": True}
    return sorted(results.find(**wanted), key=lambda figure: figure.labels)


def _panels(results: Results, title: str, ylabel: str) -> tuple[Any, list[Any]]:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MAIN), figsize=(10, 3.6), sharey=True)
    for axis, case in zip(axes, MAIN, strict=True):
        axis.set_title(name_of(case), loc="left")
        axis.set_xscale("log")
        axis.set_xlabel("labels L")
        axis.grid(color="0.92", which="major")
        axis.set_axisbelow(True)
    axes[0].set_ylabel(ylabel)
    figure.text(0.012, 0.975, title, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(0.988, 0.012, results.provenance, ha="right", va="bottom", fontsize=7, color="0.4")
    return figure, list(axes)


def _legend(figure: Any, implementations: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=LABELS[name], **_style(name)) for name in implementations]
    height, lines = figure.get_figheight(), -(-len(handles) // 4)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.16 / height), "ncol": 4}
    figure.legend(handles=handles, frameon=False, fontsize=8, **place)
    figure.tight_layout(rect=(0, (0.3 + 0.19 * lines) / height, 1, 1 - 0.18 / height), w_pad=0.8)


def _draw_time(results: Results) -> Any:
    """Draw nanoseconds a logit: a level line is time proportional to L."""
    title = f"Time of forward + backward, {_dtype(results)}, dense targets where not said otherwise"
    figure, axes = _panels(results, title, "nanoseconds a logit")
    drawn = []
    for implementation in _STYLES:
        for axis, case in zip(axes, MAIN, strict=True):
            found = _shown(results, case, implementation)
            if found:
                time = [f.ms * 1e6 / (f.rows * f.labels) for f in found]
                axis.plot([f.labels for f in found], time, **_style(implementation))
                drawn.append(implementation)
    if results.on_gpu:  # its copy is measured once
        copy = 2 * 2 / results.header["bandwidth"]["copy"]["bytes_per_second"] * 1e9
        drawn.append("copy")
    for axis in axes:
        axis.set_yscale("log")
        if results.on_gpu:
            axis.axhline(copy, **{**_style("copy"), "marker": ""})
    _legend(figure, [name for name in _STYLES if name in drawn])
    return figure


def _draw_memory(results: Results) -> Any:
    """Draw peak memory in units of the logits."""
    dtype = results.memory[0]["dtype"]
    title = f"Peak memory of forward + backward beyond logits and targets, {dtype}"
    figure, axes = _panels(results, title, "in units of the logits")
    drawn = []
    for implementation in _STYLES:
        for axis, case in zip(axes, MAIN, strict=True):
            found = [
                m for m in results.memory if (m["case"], m["competitor"], m["dtype"]) == (case, implementation, dtype)
            ]
            if found:
                found.sort(key=lambda m: m["labels"])
                axis.plot([m["labels"] for m in found], [m["peak"] for m in found], **_style(implementation))
                drawn.append(implementation)
    for axis in axes:
        axis.set_ylim(bottom=-0.3)
    _legend(figure, [name for name in _STYLES if name in drawn])
    return figure


def _lines(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Return a line for each loss; on a GPU each strategy that is not the default, Triton too, has its own for MAIN."""
    lines: dict[str, list[Figure]] = {}
    for case in [*NAMES, *sorted({f.case for f in figures} - set(NAMES))]:
        of_case = [f for f in figures if f.case == case]
        strategies = dict.fromkeys(f.strategy for f in of_case if not f.default) if case in MAIN else {}
        if of_case:
            lines[name_of(case)] = [f for f in of_case if f.default]
        for strategy in strategies:
            lines[f"{name_of(case)}, {strategy}"] = [f for f in of_case if f.strategy == strategy and not f.default]
    return lines


def _extent(figures: Sequence[Figure]) -> tuple[int, int, int]:
    return len({f.case for f in figures}), len({f.implementation for f in figures}), figures[0].labels


def _draw_floor(results: Results) -> Any:
    """Draw the share of the floor that each loss reaches, at the size with the most losses and peers."""
    from matplotlib import pyplot as plt

    step = [
        f for f in results.find(dtype=_dtype(results), mode="step") if f.of_the_floor and f.implementation in _STYLES
    ]
    labels = max({f.labels for f in step}, key=lambda size: _extent([f for f in step if f.labels == size]))
    lines = _lines([f for f in step if f.labels == labels])
    figure, axis = plt.subplots(figsize=(9, 1.9 + 0.34 * len(lines)))
    for place, shown in enumerate(lines.values()):
        for one in shown:
            style = {**_style(one.implementation), "linestyle": "none", "markersize": 6.5}
            axis.plot(100 * (one.of_the_floor or 0.0), place, **style)
    axis.axvline(100, color="0.25", linestyle="--", linewidth=1.2)
    axis.set_yticks(range(len(lines)), list(lines))
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.set_xlabel("percent of the floor: logits, gradient and targets once each, at the speed of a copy")
    title = f"How near to the memory's bandwidth, L = {labels:,}, {_dtype(results)}, forward + backward"
    figure.text(0.012, 0.985, title, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(0.988, 0.008, results.provenance, ha="right", va="bottom", fontsize=7, color="0.4")
    drawn = {f.implementation for shown in lines.values() for f in shown}
    _legend(figure, [name for name in _STYLES if name in drawn])
    return figure


_PICTURES = {"time": _draw_time, "memory": _draw_memory, "floor": _draw_floor}


def pictures_of(results: Results) -> dict[str, str]:
    """Return the names of the files that ``draw`` makes of these results, by what they show."""
    return {what: f"{results.name}-{what}.svg" for what in _PICTURES if what != "memory" or results.memory}


def draw(everything: Sequence[Results], folder: Path = FOLDER) -> None:
    """Write the pictures, and remove those of results that are gone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        # Text stays text, and ids within the file do not change from run to run.
        "svg.fonttype": "none",
        "svg.hashsalt": "mlloss_cuda",
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name for results in everything for name in pictures_of(results).values()}
    for path in folder.glob("*.svg"):
        if path.name not in kept:
            path.unlink()
    with matplotlib.rc_context(settings):
        for results in everything:
            for what, name in pictures_of(results).items():
                figure = _PICTURES[what](results)
                figure.savefig(folder / name, metadata={"Date": None, "Creator": None})
                plt.close(figure)
