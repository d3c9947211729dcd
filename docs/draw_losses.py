"""``make report``: each loss and its gradient over one logit, for docs/losses.md.

The reference backend computes the curves in float64. The same matplotlib writes the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mlloss_cuda
from mlloss_cuda import functional

__all__ = ["FOLDER", "PICTURES"]

FOLDER = Path(__file__).parent / "images" / "losses"
POINTS, REACH = 241, 6.0
# Okabe and Ito's palette, which colour-blind readers can distinguish; curves for comparison are grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
COMPARED = "0.45"
POSITIVE, NEGATIVE = (0.0, ()), (0.0, (4.0, 1.6))  # strokes and gaps

Others = Sequence[tuple[int, float, int]]  # number of labels, their logit, their target
LossOfALogit = Callable[[Tensor], Tensor]  # the row's loss as a function of one label's logit


@dataclass(frozen=True)
class Curves:
    """One entry of the legend: the loss as a function of a positive's logit, and of a negative's."""

    name: str
    positive: LossOfALogit | None = None
    negative: LossOfALogit | None = None
    compared: bool = False


@dataclass(frozen=True)
class Picture:
    """A loss's two panels. They are drawn if the package exports ``function``."""

    function: str
    state: str  # the fixed part of the row
    curves: Callable[[], list[Curves]]  # at most five, and curves for comparison
    labelled: bool = True  # positive and negative labels differ


# ---- the row around the logit ----


def by_logit(call: Callable[..., Tensor], target: float, others: Others, **own: Any) -> LossOfALogit:
    """Return the loss of a row as a function of the logit of its first label, which has this target."""
    rest = [torch.full((count,), at, dtype=torch.float64) for count, at, _ in others]
    known = [torch.full((count,), float(y), dtype=torch.float64) for count, _, y in others]
    targets = torch.cat([torch.tensor([target], dtype=torch.float64), *known])[None]

    def loss(s: Tensor) -> Tensor:
        return call(torch.cat([s[None], *rest])[None], targets, reduction="sum", **own)

    return loss


def both(
    name: str, function: str, others: Others = (), sides: str = "+-", compared: bool = False, **own: Any
) -> Curves:
    """Return the curves of a positive (``+`` in ``sides``) and of a negative (``-``) among ``others``."""
    call = getattr(functional, function)
    positive, negative = (by_logit(call, target, others, **own) for target in (1.0, 0.0))
    return Curves(name, positive if "+" in sides else None, negative if "-" in sides else None, compared)


def _rivals(function: str) -> list[Curves]:
    sizes = (1, 20, 400)
    return [both(f"n = {n}", function, [(n, 2.0, 1), (n, -2.0, 0)]) for n in sizes]


def _company(function: str) -> list[Curves]:
    counts = (0, 1, 4)
    return [both(f"k = {k}", function, [(k, 2.0, 1), (100, -2.0, 0)]) for k in counts]


OVERLAP: Others = ((2, 2.0, 1), (20, -4.0, 0))


# ---- the losses ----


def _zlpr_soft() -> list[Curves]:
    call = functional.zlpr_loss
    return [Curves(f"y = {y:g}", by_logit(call, y, ())) for y in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _bce() -> list[Curves]:
    name = "bce_with_logits_loss"
    return [
        both("pos_weight 1", name),
        *(both(f"pos_weight {q}", name, sides="+", pos_weight=float(q)) for q in (2, 4)),
    ]


def _margin() -> list[Curves]:
    margins = [both(f"margin {m:g}", "margin_bce_loss", margin=m) for m in (0.6, 0.8, 0.95)]
    return [*margins, both("BCE", "bce_with_logits_loss", compared=True)]


def _focal() -> list[Curves]:
    powers = [both(f"gamma {g:g}", "sigmoid_focal_loss", alpha=None, gamma=g) for g in (0.5, 2.0, 5.0)]
    return [*powers, both("gamma 0: BCE", "bce_with_logits_loss", compared=True)]


def _asymmetric() -> list[Curves]:
    name = "asymmetric_loss"
    return [
        both("gamma_neg 4, gamma_pos 1, clip 0.05 (default)", name),
        both("the same, detached", name, detach_focal_weight=True),
        both("clip 0", name, sides="-", clip=0.0),
        both("gamma_neg 1", name, sides="-", gamma_neg=1.0),
        both("BCE", "bce_with_logits_loss", compared=True),
    ]


def _hinge() -> list[Curves]:
    return [both("squared hinge", "squared_hinge_loss"), both("BCE", "bce_with_logits_loss", compared=True)]


def _dice() -> list[Curves]:
    name = "dice_loss"
    return [
        both("linear (default)", name, OVERLAP),
        both("squared", name, OVERLAP, squared=True),
        both("log", name, OVERLAP, log=True),
        both("self_adjusting_alpha 1", name, OVERLAP, self_adjusting_alpha=1.0),
    ]


def _tversky() -> list[Curves]:
    name = "tversky_loss"
    return [
        both("alpha 0.5, beta 0.5 (default)", name, OVERLAP),
        both("alpha 0.3, beta 0.7", name, OVERLAP, alpha=0.3, beta=0.7),
        both("alpha 0.7, beta 0.3", name, OVERLAP, alpha=0.7, beta=0.3),
        both("alpha 0.3, beta 0.7, gamma 0.5", name, OVERLAP, alpha=0.3, beta=0.7, gamma=0.5),
    ]


def _jaccard() -> list[Curves]:
    return [
        both("smooth 1 (default)", "jaccard_loss", OVERLAP),
        both("smooth 0", "jaccard_loss", OVERLAP, smooth=0.0),
        both("Dice, smooth 1", "dice_loss", OVERLAP, compared=True),
    ]


def _symmetric_kl() -> list[Curves]:
    def against(t: float) -> LossOfALogit:
        other = torch.tensor([[t]], dtype=torch.float64)
        return lambda s: functional.symmetric_kl_loss(s.view(1, 1), other, reduction="sum")

    return [Curves(f"t = {t:g}", against(t)) for t in (-3.0, 0.0, 3.0)]


def _compound() -> list[Curves]:
    sum_of = [
        (1.0, mlloss_cuda.ZLPRLoss()),
        (0.5, mlloss_cuda.SigmoidFocalLoss()),
        (1.0, mlloss_cuda.DiceLoss()),
    ]
    return [
        both("ZLPR + ½ focal + Dice", "compound_loss", OVERLAP, terms=sum_of),
        both("ZLPR alone", "zlpr_loss", OVERLAP, compared=True),
    ]


_RIVALS = "row: n other positives at 2, n other negatives at -2"
_COMPANY = "row: k other positives at 2, 100 negatives at -2"
_OVERLAP = "row: 2 other positives at 2, 20 other negatives at -4"

PICTURES = {
    "zlpr_loss": Picture("zlpr_loss", _RIVALS, lambda: _rivals("zlpr_loss")),
    "zlpr_loss_soft": Picture(
        "zlpr_loss", "one label of probability y; zero gradient at y = sigmoid(2s)", _zlpr_soft, False
    ),
    "lsep_loss": Picture("lsep_loss", _RIVALS, lambda: _rivals("lsep_loss")),
    "multi_positive_cross_entropy_loss": Picture(
        "multi_positive_cross_entropy_loss", _COMPANY, lambda: _company("multi_positive_cross_entropy_loss")
    ),
    "decoupled_softmax_loss": Picture("decoupled_softmax_loss", _COMPANY, lambda: _company("decoupled_softmax_loss")),
    "bce_with_logits_loss": Picture("bce_with_logits_loss", "one label", _bce),
    "margin_bce_loss": Picture("margin_bce_loss", "one label", _margin),
    "sigmoid_focal_loss": Picture("sigmoid_focal_loss", "one label, alpha=None", _focal),
    "asymmetric_loss": Picture("asymmetric_loss", "one label", _asymmetric),
    "squared_hinge_loss": Picture("squared_hinge_loss", "one label", _hinge),
    "dice_loss": Picture("dice_loss", _OVERLAP, _dice),
    "tversky_loss": Picture("tversky_loss", _OVERLAP, _tversky),
    "jaccard_loss": Picture("jaccard_loss", _OVERLAP, _jaccard),
    "symmetric_kl_loss": Picture("symmetric_kl_loss", "one label, whose other logit is t", _symmetric_kl, False),
    "compound_loss": Picture("compound_loss", _OVERLAP, _compound),
}


# ---- drawing ----


def _trace(loss: LossOfALogit, logits: Tensor) -> tuple[list[float], list[float]]:
    values, gradients = [], []
    for at in logits:
        s = at.clone().requires_grad_()
        value = loss(s)
        (gradient,) = torch.autograd.grad(value, s)
        values.append(float(value.detach()))
        gradients.append(float(gradient))
    return values, gradients


def _plot(axes: Sequence[Any], curves: Sequence[Curves]) -> None:
    logits = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    colours = iter(COLOURS)
    for place, entry in enumerate(curves):
        line: dict[str, Any] = {"color": COMPARED if entry.compared else next(colours)}
        # The first curve is on top: it is the default, or it leaves the others where these coincide.
        line |= {"linewidth": 1.1 if entry.compared else 1.8, "zorder": 3 - place / 8}
        for loss, style in ((entry.positive, POSITIVE), (entry.negative, NEGATIVE)):
            if loss is not None:
                for axis, y in zip(axes, _trace(loss, logits), strict=True):
                    axis.plot(logits.tolist(), y, linestyle=style, **line)


def _legend_rows(curves: Sequence[Curves], labelled: bool) -> int:
    """Return 1 if all entries fit into one row, else 2."""
    return 1 if sum(len(c.name) + 10 for c in curves) + 46 * labelled < 130 else 2


def _legend(figure: Any, curves: Sequence[Curves], labelled: bool) -> None:
    from matplotlib.lines import Line2D

    colours = iter(COLOURS)
    handles = [Line2D([], [], color=COMPARED if c.compared else next(colours), label=c.name, lw=1.8) for c in curves]
    if labelled:
        styles = (("the label is positive", POSITIVE), ("negative", NEGATIVE))
        handles[:0] = [Line2D([], [], color="0.2", linestyle=style, label=name, lw=1.4) for name, style in styles]
    columns = -(-len(handles) // _legend_rows(curves, labelled))
    figure.legend(
        handles=handles, loc="lower center", ncol=columns, frameon=False, handlelength=2.2, columnspacing=1.6,
    )  # fmt: skip


def draw(name: str, picture: Picture, folder: Path, suffix: str) -> None:
    """Write one picture."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.7), dpi=100)
    curves = picture.curves()
    _plot(axes, curves)
    for axis, title in zip(axes, ("loss", "gradient in the logit"), strict=True):
        axis.set_title(title, loc="left")
        axis.set_xlabel("logit s of the label")
        axis.set_xlim(-REACH, REACH)
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    axes[1].axhline(0, color="0.6", linewidth=0.8, zorder=1)
    figure.text(0.012, 0.975, picture.function, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(0.988, 0.97, picture.state, ha="right", va="top", color="0.35")
    rows = _legend_rows(curves, picture.labelled)
    figure.tight_layout(rect=(0, 0.02 + 0.065 * rows, 1, 0.95), w_pad=2.5)
    _legend(figure, curves, picture.labelled)
    # A picture that holds no date and no version has the same bytes in every run.
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    figure.savefig(folder / f"{name}.{suffix}", metadata=metadata)
    plt.close(figure)


def main(given: Sequence[str] | None = None) -> int:
    """Draw every exported loss; return 1 if one of them has no picture here."""
    import matplotlib

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="FOLDER", help="default: docs/images/losses")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="default: svg")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pictures")
    options = parser.parse_args(given)
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False})
    # Text stays text, which takes fewer bytes than outlines.
    matplotlib.rcParams.update({"svg.hashsalt": "mlloss_cuda", "svg.fonttype": "none", "axes.titlesize": 10.5})
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana", "Arial"]
    options.output.mkdir(parents=True, exist_ok=True)
    missing = set(functional.__all__) - {picture.function for picture in PICTURES.values()}
    if missing:
        print(f"no picture is described for: {', '.join(sorted(missing))}", file=sys.stderr)
    for name in options.names or PICTURES:
        picture = PICTURES[name]
        if picture.function not in functional.__all__:
            print(f"{name}: not drawn, because mlloss_cuda has no {picture.function}")
            continue
        with mlloss_cuda.use_backend("reference"):
            draw(name, picture, options.output, options.format)
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
