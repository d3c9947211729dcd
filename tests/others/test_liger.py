"""Liger-Kernel's cross-entropy equals our loss of one positive per row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from mlloss_cuda import CSRTargets, multi_positive_cross_entropy_loss

from ..inputs import evaluate
from .grid import SCALES, diagonal, drawn
from .tally import Tally

ROWS, LABELS = 6, 40


def test_cross_entropy(tmp_path: Path, tally: Tally) -> None:
    settings, given = [], []
    for seed, options in enumerate(diagonal(12, smoothing=(0.0, 0.1), reduction=("mean", "sum"), scale=SCALES)):
        x, y = drawn(seed, (ROWS, LABELS), options["scale"])
        classes = torch.where(y, torch.rand(y.shape, generator=torch.Generator().manual_seed(seed)), 0.0).argmax(1)
        classes[0] = -100 if seed % 2 else classes[0]
        settings.append((x, classes, options["smoothing"], options["reduction"], None))
        given.append(options)
    torch.save(settings, tmp_path / "settings.pt")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.others.liger", str(tmp_path / "settings.pt"), str(tmp_path / "results.pt")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (x, classes, smoothing, reduction, _), (value, gradient) in zip(
        settings, torch.load(tmp_path / "results.pt"), strict=True
    ):
        kept = classes >= 0
        targets = CSRTargets.from_lists([[c] if c >= 0 else [] for c in classes.tolist()], LABELS)
        # A row of class -100 is left out: it has a weight of 0, and the mean is over the others.
        own = evaluate(
            multi_positive_cross_entropy_loss,
            x,
            targets,
            sample_weight=kept.float(),
            label_smoothing=smoothing,
            reduction="sum",
            normalizer=int(kept.sum()) if reduction == "mean" else None,
        )
        exact = evaluate(
            lambda x, y, e=smoothing, r=reduction: F.cross_entropy(x, y, label_smoothing=e, reduction=r),
            x.double(),
            classes,
        )
        tally.near("Liger-Kernel", own.value, value, exact.value)
        tally.near("Liger-Kernel", own.gradient, gradient, exact.gradient)
