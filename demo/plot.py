"""The plot of loss and precision over training time, one line for each loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from demo.model import History

# Okabe and Ito's palette, which colour-blind readers can tell apart; the markers help in grey.
STYLE = {
    "BCE": ("#0072B2", "o"),
    "focal": ("#E69F00", "s"),
    "Dice": ("#009E73", "^"),
    "ZLPR": ("#D55E00", "D"),
}


def draw(histories: Mapping[str, History], popular: Mapping[int, float], subtitle: str, path: Path) -> None:
    """Write the PNG. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), dpi=150)
    loss_axis, *precision_axes = axes
    for name, history in histories.items():
        colour, marker = STYLE[name]
        line = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.8}
        relative = [value / history.loss[0] for value in history.loss]
        loss_axis.plot(history.seconds, relative, label=name, **line)
        for axis, k in zip(precision_axes, (1, 5), strict=True):
            values = [point[k] for point in history.curve]
            axis.plot(history.curve_seconds, values, **line)
    loss_axis.set_title("Training loss", loc="left", fontweight="bold")
    loss_axis.set_ylabel("loss / its mean over the first interval")
    loss_axis.set_ylim(bottom=0)
    for axis, k in zip(precision_axes, (1, 5), strict=True):
        axis.set_title(f"Precision at {k}, held-out files", loc="left", fontweight="bold")
        axis.set_ylabel(f"right among the {k} best names (%)" if k > 1 else "best name right (%)")
        axis.axhline(popular[k], color="0.45", linestyle="--", linewidth=1.2)
        axis.annotate(
            f"most frequent name{'s' if k > 1 else ''}, always: {popular[k]:.0f}%",
            xy=(0.98, popular[k]),
            xycoords=("axes fraction", "data"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color="0.35",
            fontsize=9,
        )
        axis.set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("training time (s)")
        axis.set_xlim(left=0)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    figure.suptitle(
        "Which names does a function use, given its docstring?",
        x=0.01, y=0.985, ha="left", fontsize=14, fontweight="bold",
    )  # fmt: skip
    figure.text(0.01, 0.905, subtitle, ha="left", va="top", color="0.35")
    figure.tight_layout(rect=(0, 0.07, 1, 0.88), w_pad=2.5)
    figure.legend(
        *loss_axis.get_legend_handles_labels(), loc="lower center", ncol=len(histories),
        frameon=False,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
