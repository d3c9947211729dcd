"""The demo's command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo import corpus

ROOT = Path(__file__).resolve().parent.parent
PLOT = ROOT / "demo" / "out" / "losses.png"
LABEL_FLOOR = 30_000
EPOCHS = 5


@dataclass(frozen=True)
class Options:
    minutes: float
    labels: int | None
    epochs: int
    seed: int
    device: str
    packages: list[str] | None
    compile: bool
    output: Path
    smoke: bool


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Reads the Python packages installed on this machine, and learns to predict "
        "the names that a function's body uses from its docstring: with BCE, focal, Dice and "
        "ZLPR, fused, against eager PyTorch and torch.compile.",
    )
    parser.add_argument(
        "--minutes", type=_number(float, 0.1), default=2.0, metavar="M",
        help="for everything; training shortens to fit, for all losses alike (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=_number(int, 100), metavar="L",
        help="the L most frequent names (default: those that two functions use, but no fewer "
        f"than {LABEL_FLOOR:,})",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=_number(int, 1), metavar="N",
        help=f"passes over the data for each loss, if time suffices (default: {EPOCHS})",
    )  # fmt: skip
    parser.add_argument("--seed", type=_number(int, 0), default=0, help="default: 0")
    parser.add_argument("--device", default="auto", help='"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"')
    parser.add_argument(
        "--packages", nargs="+", metavar="NAME",
        help=f"what to read (default: what is installed of {', '.join(corpus.DEFAULT_PACKAGES)})",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--output", type=Path, default=PLOT, metavar="PNG",
        help="where the plot goes (default: demo/out/losses.png)",
    )  # fmt: skip
    parser.add_argument(
        "--smoke", action="store_true",
        help="a tiny run to see that everything works: 120 files, 1,000 names, 2 epochs, "
        "no torch.compile",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.output.suffix.lower() != ".png":
        parser.error(f"argument --output: the plot is a .png, got {given.output}")
    if given.packages:
        given.packages = list(dict.fromkeys(given.packages))
    return Options(
        minutes=given.minutes,
        labels=given.labels or (1_000 if given.smoke else None),
        epochs=given.epochs or (2 if given.smoke else EPOCHS),
        seed=given.seed,
        device=given.device,
        packages=given.packages,
        compile=not (given.no_compile or given.smoke),
        output=given.output,
        smoke=given.smoke,
    )


def _number(kind: type, least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected {'an integer' if kind is int else 'a number'}, got {text!r}"
            ) from None
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return value

    return parse
