"""Losses of other packages, in values and gradients. tests/test_oracles.py compares with PyTorch's.

The other packages run in float64 if they can, so that differences are our rounding errors.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import asymmetric_loss, dice_loss, jaccard_loss, sigmoid_focal_loss, tversky_loss

from ..conftest import Backend
from ..inputs import evaluate, random_logits, random_positives, random_probabilities
from .packages import monai_losses, timm_losses, torchvision_ops
from .tally import Tally

SHAPE = (7, 600)
# Shapes for MONAI: each of our groups becomes a channel, which extends over the dimensions after it.
MONAI_GROUPS = {
    "samples": lambda x: x[:, None],
    "macro": lambda x: x.t()[:, None],
    "micro": lambda x: x.reshape(1, 1, -1),
}


def inputs(backend: Backend, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logits = random_logits(generator, SHAPE, torch.float32, backend.device)
    return logits, random_positives(generator, SHAPE, 0.05).to(backend.device)


@pytest.fixture
def assert_same(request: pytest.FixtureRequest, tally: Tally) -> Any:
    """A function that compares value and gradient, counted for the package at the end of the test's name."""
    package = request.node.originalname.rpartition("_")[2]

    def compare(ours: Any, theirs: Any, logits: Tensor, targets: Tensor, atol: float = 5e-7, **arguments: Any) -> None:
        """Compare the losses. ``arguments`` are ours. The reduction is a sum, so that gradients are not tiny."""
        got = evaluate(ours, logits, targets, reduction="sum", **arguments)
        expected = evaluate(theirs, logits.double(), targets.double())
        tally.equal(package, got.value, expected.value, rtol=5e-6, atol=0)
        tally.equal(package, got.gradient, expected.gradient, rtol=2e-5, atol=atol)

    return compare


def by_groups(loss: Any, average: str) -> Any:
    group = MONAI_GROUPS[average]
    return lambda x, y: loss(group(x), group(y))


@pytest.mark.parametrize("average", MONAI_GROUPS)
@pytest.mark.parametrize("squared", (False, True))
def test_dice_equals_monai(
    assert_same: Any, backend: Backend, generator: torch.Generator, average: str, squared: bool
) -> None:
    theirs = monai_losses.DiceLoss(sigmoid=True, squared_pred=squared, smooth_nr=0.5, smooth_dr=0.5, reduction="sum")
    ours = {"average": average, "squared": squared, "smooth": 0.5}
    assert_same(dice_loss, by_groups(theirs, average), *inputs(backend, generator), **ours)


@pytest.mark.parametrize("average", MONAI_GROUPS)
def test_jaccard_equals_monai(assert_same: Any, backend: Backend, generator: torch.Generator, average: str) -> None:
    """MONAI adds its smoothing to twice the intersection and twice the union."""
    theirs = monai_losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2.0, smooth_dr=2.0, reduction="sum")
    assert_same(jaccard_loss, by_groups(theirs, average), *inputs(backend, generator), average=average, smooth=1.0)


@pytest.mark.parametrize("average", MONAI_GROUPS)
@pytest.mark.parametrize("alpha,beta", ((0.5, 0.5), (0.3, 0.7), (0.8, 0.1)))
def test_tversky_equals_monai(
    assert_same: Any, backend: Backend, generator: torch.Generator, average: str, alpha: float, beta: float
) -> None:
    errors = {"alpha": alpha, "beta": beta}
    theirs = monai_losses.TverskyLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="sum", **errors)
    assert_same(tversky_loss, by_groups(theirs, average), *inputs(backend, generator), average=average, **errors)


@pytest.mark.parametrize("alpha", (None, 0.25, 0.9))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 3.5))
def test_focal_equals_monai(
    assert_same: Any, backend: Backend, generator: torch.Generator, alpha: float | None, gamma: float
) -> None:
    """MONAI's loss computes in float32."""
    logits, targets = inputs(backend, generator)
    theirs = monai_losses.FocalLoss(alpha=alpha, gamma=gamma, reduction="none")
    assert_same(sigmoid_focal_loss, lambda x, y: theirs(x, y).sum(), logits, targets, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("alpha", (None, 0.25, 0.9))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 3.5))
@pytest.mark.parametrize("soft", (False, True))
def test_focal_equals_torchvision(
    assert_same: Any, backend: Backend, generator: torch.Generator, alpha: float | None, gamma: float, soft: bool
) -> None:
    """Targets that are probabilities agree too, with torchvision's alpha, which is -1 for none."""
    logits, targets = inputs(backend, generator)
    if soft:
        targets = random_probabilities(generator, SHAPE).float().to(backend.device)
    weight = -1 if alpha is None else alpha
    theirs = lambda x, y: torchvision_ops.sigmoid_focal_loss(x, y, weight, gamma, reduction="sum")  # noqa: E731
    assert_same(sigmoid_focal_loss, theirs, logits, targets, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("detached", (False, True))
@pytest.mark.parametrize("gamma_neg,gamma_pos,clip", ((4.0, 1.0, 0.05), (2.0, 0.0, 0.0), (3.0, 2.0, 0.3)))
def test_asymmetric_equals_timm(
    assert_same: Any,
    backend: Backend,
    generator: torch.Generator,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    detached: bool,
) -> None:
    """The logits stay within timm's eps. timm computes in float32, and loses digits in 1 - p."""
    logits, targets = inputs(backend, generator)
    own = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    theirs = timm_losses.AsymmetricLossMultiLabel(**own, disable_torch_grad_focal_loss=detached, reduction="sum")
    arguments = {**own, "detach_focal_weight": detached}
    assert_same(asymmetric_loss, theirs, logits.clamp(-6, 6), targets, atol=5e-6, **arguments)
