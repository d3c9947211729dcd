"""Pictures of the results. The same results and matplotlib give the same bytes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import by_criterion, reported, sets_of, values
from .store import Record
from .training import LOSSES

__all__ = ["draw"]

# Okabe and Ito's palette, which colour-blind readers can tell apart.
ZLPR, BCE, OTHER = "#D55E00", "#0072B2", "0.45"
SHOWN = ("subset accuracy", "F1 samples", "AP samples")


def draw(records: Sequence[Record], folder: Path) -> None:
    """Draw losses.svg and names.svg."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False})
    matplotlib.rcParams.update({"svg.hashsalt": "mlloss_cuda", "svg.fonttype": "none", "axes.titlesize": 10.5})
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana", "Arial"]
    folder.mkdir(parents=True, exist_ok=True)
    _losses(by_criterion(records, "all"), folder / "losses.svg")
    _names(reported(records, "names"), folder / "names.svg")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _losses(records: Sequence[Record], path: Path) -> None:
    """Draw a row of panels for each metric, a column for each set, and each loss's mean and range over seeds."""
    from matplotlib import pyplot as plt

    names, order = sets_of(records), list(reversed(LOSSES))
    size = (2.6 * len(names) + 1.6, 2.6 * len(SHOWN) + 0.5)
    figure, axes = plt.subplots(len(SHOWN), len(names), figsize=size, sharey=True, squeeze=False)
    for row, metric in zip(axes, SHOWN, strict=True):
        for axis, name in zip(row, names, strict=True):
            found = {loss: [100 * v for v in seeds] for loss, seeds in values(records, name, metric).items()}
            colours = [ZLPR if loss == "zlpr" else BCE if loss == "bce" else OTHER for loss in order]
            seeds = [found[loss] for loss in order]
            places = range(len(order))
            axis.hlines(places, [min(each) for each in seeds], [max(each) for each in seeds], colors=colours)
            axis.scatter([statistics.fmean(each) for each in seeds], places, s=22, c=colours, zorder=3)
            axis.set_yticks(range(len(order)), [LOSSES[loss].title for loss in order])
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
            axis.tick_params(axis="y", length=0)
            axis.set_title(f"{name}: {metric}, %", loc="left")
    figure.tight_layout(w_pad=1.5, h_pad=1.5)
    _save(figure, path)


def _names(records: Sequence[Record], path: Path) -> None:
    """Draw precision over training time, a thin line for each seed."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, k in zip(axes, ("1", "5"), strict=True):
        for loss in dict.fromkeys(each["loss"] for each in records):
            colour, marker = (BCE, "o") if loss.startswith("BCE") else (ZLPR, "D")
            # Hollow markers and dashed lines: heads that begin at label embeddings.
            style: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white"} if "," in loss else {}
            for number, run in enumerate(each for each in records if each["loss"] == loss):
                line = [point[k] for point in run["curve"]]
                style["label"] = loss if number == 0 else None
                axis.plot(run["times"], line, color=colour, marker=marker, markersize=3.5, linewidth=1.2, **style)
        axis.set_title(f"Precision at {k}, functions of other files, %", loc="left")
        axis.set_xlabel("training time, s (a line a seed)")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    axes[0].legend(frameon=False, loc="lower right")
    figure.tight_layout(w_pad=2.5)
    _save(figure, path)
