"""Other people's losses, in values and gradients. PyTorch's own are in tests/test_oracles.py.

Theirs run in float64 where they let it, so that what differs is ours.
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
# As MONAI takes them: a group of ours is a channel of theirs, over the dimensions after it.
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
    """A function of ours and theirs, in value and gradient, counted for the package that the test is named after."""
    packages = {"monais": "monai", "torchvisions": "torchvision", "timms": "timm"}
    package = packages[request.node.originalname.rpartition("_")[2]]

    def compare(ours: Any, theirs: Any, logits: Tensor, targets: Tensor, atol: float = 5e-7, **arguments: Any) -> None:
        """``arguments`` are ours. Sums over rows or elements: gradients of a size that is worth comparing."""
        got = evaluate(ours, logits, targets, reduction="sum", **arguments)
        expected = evaluate(theirs, logits.double(), targets.double())
        tally.equal(package, got.value, expected.value, rtol=5e-6, atol=0)
        tally.equal(package, got.gradient, expected.gradient, rtol=2e-5, atol=atol)

    return compare


def of_groups(loss: Any, average: str) -> Any:
    group = MONAI_GROUPS[average]
    return lambda x, y: loss(group(x), group(y))


@pytest.mark.parametrize("average", MONAI_GROUPS)
@pytest.mark.parametrize("squared", (False, True))
def test_dice_is_monais(
    assert_same: Any, backend: Backend, generator: torch.Generator, average: str, squared: bool
) -> None:
    theirs = monai_losses.DiceLoss(sigmoid=True, squared_pred=squared, smooth_nr=0.5, smooth_dr=0.5, reduction="sum")
    ours = {"average": average, "squared": squared, "smooth": 0.5}
    assert_same(dice_loss, of_groups(theirs, average), *inputs(backend, generator), **ours)


@pytest.mark.parametrize("average", MONAI_GROUPS)
def test_jaccard_is_monais(assert_same: Any, backend: Backend, generator: torch.Generator, average: str) -> None:
    """They smooth twice the intersection over twice the union."""
    theirs = monai_losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2.0, smooth_dr=2.0, reduction="sum")
    assert_same(jaccard_loss, of_groups(theirs, average), *inputs(backend, generator), average=average, smooth=1.0)


@pytest.mark.parametrize("average", MONAI_GROUPS)
@pytest.mark.parametrize("alpha,beta", ((0.5, 0.5), (0.3, 0.7), (0.8, 0.1)))
def test_tversky_is_monais(
    assert_same: Any, backend: Backend, generator: torch.Generator, average: str, alpha: float, beta: float
) -> None:
    errors = {"alpha": alpha, "beta": beta}
    theirs = monai_losses.TverskyLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="sum", **errors)
    assert_same(tversky_loss, of_groups(theirs, average), *inputs(backend, generator), average=average, **errors)


@pytest.mark.parametrize("alpha", (None, 0.25, 0.9))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 3.5))
def test_focal_is_monais(
    assert_same: Any, backend: Backend, generator: torch.Generator, alpha: float | None, gamma: float
) -> None:
    """Theirs computes in float32."""
    logits, targets = inputs(backend, generator)
    theirs = monai_losses.FocalLoss(alpha=alpha, gamma=gamma, reduction="none")
    assert_same(sigmoid_focal_loss, lambda x, y: theirs(x, y).sum(), logits, targets, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("alpha", (None, 0.25, 0.9))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 3.5))
@pytest.mark.parametrize("soft", (False, True))
def test_focal_is_torchvisions(
    assert_same: Any, backend: Backend, generator: torch.Generator, alpha: float | None, gamma: float, soft: bool
) -> None:
    """Probabilities included. With them their alpha, -1 for none, is ours too."""
    logits, targets = inputs(backend, generator)
    if soft:
        targets = random_probabilities(generator, SHAPE).float().to(backend.device)
    weight = -1 if alpha is None else alpha
    theirs = lambda x, y: torchvision_ops.sigmoid_focal_loss(x, y, weight, gamma, reduction="sum")  # noqa: E731
    assert_same(sigmoid_focal_loss, theirs, logits, targets, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("detached", (False, True))
@pytest.mark.parametrize("gamma_neg,gamma_pos,clip", ((4.0, 1.0, 0.05), (2.0, 0.0, 0.0), (3.0, 2.0, 0.3)))
def test_asymmetric_is_timms(
    assert_same: Any,
    backend: Backend,
    generator: torch.Generator,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    detached: bool,
) -> None:
    """Logits within their eps. Theirs computes in float32, and 1 - p with what that loses."""
    logits, targets = inputs(backend, generator)
    own = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
    theirs = timm_losses.AsymmetricLossMultiLabel(**own, disable_torch_grad_focal_loss=detached, reduction="sum")
    arguments = {**own, "detach_focal_weight": detached}
    assert_same(asymmetric_loss, theirs, logits.clamp(-6, 6), targets, atol=5e-6, **arguments)
