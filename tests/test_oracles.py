"""Facts about each loss that hold without any reference: identities, bounds, published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mlloss_cuda import CSRTargets, dice_loss, sigmoid_focal_loss, zlpr_loss

from .cases import Case
from .conftest import Backend
from .inputs import evaluate, random_logits, random_positives, random_probabilities


def inputs(generator: torch.Generator, backend: Backend, shape: tuple[int, int] = (7, 2500)):
    logits = random_logits(generator, shape, torch.float32, backend.device)
    return logits, random_positives(generator, shape, 0.02).to(backend.device)


# m, the negatives' term, the gradient on a positive: 131,073 labels, two positives at +m, negatives at -m
SECTION_5 = ((8, 3.8060, -3.35e-4), (12, 0.5907, -6.1e-6), (16, 0.0146, -1.1e-7), (20, 0.00027, -2.1e-9))


@pytest.mark.parametrize(("m", "negatives", "gradient"), SECTION_5)
@pytest.mark.parametrize("layout", ("bool", "csr"))
def test_positives_are_excluded_not_subtracted(
    backend: Backend, m: float, negatives: float, gradient: float, layout: str
) -> None:
    """The trick "all minus positives" fails this table in float32: +0.50 in place of -1.1e-7 at m = 16."""
    positives = [17, 70_001]
    logits = torch.full((1, 131_073), -float(m), device=backend.device)
    logits[0, positives] = float(m)
    targets = CSRTargets.from_lists([positives], 131_073)
    given = targets.to(backend.device) if layout == "csr" else targets.to_dense().to(backend.device)
    got = evaluate(zlpr_loss, logits, given)
    positive_term = math.log1p(2 * math.exp(-m))
    assert float(got.value) - positive_term == pytest.approx(negatives, rel=5e-3, abs=5e-6)
    assert float(got.gradient[0, 17]) == pytest.approx(gradient, rel=3e-2)
    assert float(got.gradient[0, 17]) == pytest.approx(-math.exp(-m) / (1 + 2 * math.exp(-m)), rel=2e-6)
    exact = math.log1p(131_071 * math.exp(-m)) + positive_term
    assert float(got.value) == pytest.approx(exact, rel=2e-6)


def test_focal_without_focus_is_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    for y in (targets.float(), random_probabilities(generator, (7, 2500)).float().to(backend.device)):
        got = evaluate(sigmoid_focal_loss, logits, y, alpha=None, gamma=0.0)
        expected = evaluate(lambda x, t: F.binary_cross_entropy_with_logits(x, t), logits, y)
        torch.testing.assert_close(got.value, expected.value)
        torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-5, atol=1e-11)


def test_one_label_makes_zlpr_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend, (50, 1))
    got = zlpr_loss(logits, targets)
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, targets.float()))


def test_zlpr_is_at_most_the_sum_of_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    bce = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").sum(-1)
    assert bool((zlpr_loss(logits, targets, reduction="none") <= bce * (1 + 1e-6)).all())


def test_zlpr_gradient_mass_is_below_one(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    gradient = evaluate(zlpr_loss, logits, targets, reduction="sum").gradient
    for side in (gradient.clamp(min=0), -gradient.clamp(max=0)):
        assert bool((side.sum(-1) <= 1 + 1e-6).all())


def test_threshold_is_a_shift(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    torch.testing.assert_close(zlpr_loss(logits, targets, threshold=0.5), zlpr_loss(logits - 0.5, targets))


def test_soft_zlpr_optimum_is_sigmoid_of_twice_the_logit(backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (5, 30), torch.float64, backend.device, 1.0)
    got = evaluate(zlpr_loss, logits, torch.sigmoid(2 * logits))
    assert float(got.gradient.abs().max()) < 1e-15


def test_published_focal_value(backend: Backend) -> None:
    """Lin et al., section 3.2: with gamma = 2, an example classified at p_t = 0.9 costs 100 times less than by CE."""
    s = torch.tensor([[math.log(9.0)]], device=backend.device)
    one = torch.ones(1, 1, dtype=torch.bool, device=backend.device)
    focal, ce = (float(sigmoid_focal_loss(s, one, alpha=None, gamma=g)) for g in (2.0, 0.0))
    assert ce / focal == pytest.approx(100, rel=1e-5)


def test_hand_worked_dice(backend: Backend) -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]], device=backend.device)
    targets = torch.tensor([[1, 1, 0, 0]], device=backend.device)
    # p = 1/2 each: 1 - (2 * 1 + 1) / (2 + 2 + 1), and with squares 1 - (2 + 1) / (1 + 2 + 1)
    assert float(dice_loss(logits, targets)) == pytest.approx(0.4)
    assert float(dice_loss(logits, targets, squared=True)) == pytest.approx(0.25)


def test_permuting_labels_permutes_gradients(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    order = torch.randperm(2500, generator=generator).to(backend.device)
    straight = evaluate(served, logits, targets, reduction="sum")
    permuted = evaluate(served, logits[:, order], targets[:, order], reduction="sum")
    torch.testing.assert_close(permuted.value, straight.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(permuted.gradient, straight.gradient[:, order], rtol=1e-4, atol=1e-7)


def test_smoothing_spreads_epsilon_over_all_labels(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    smoothed = targets.double() * 0.9 + 0.1 / 2500
    got = evaluate(served, logits, targets, label_smoothing=0.1)
    expected = evaluate(served, logits, smoothed)
    torch.testing.assert_close(got.value, expected.value, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-3, atol=1e-8)


def test_zero_weight_is_no_label(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    weight = torch.ones(2500, device=backend.device)
    weight[100:] = 0
    whole = evaluate(served, logits, targets, weight=weight, reduction="sum")
    part = evaluate(served, logits[:, :100], targets[:, :100], reduction="sum")
    if served.own.get("average") != "macro":
        torch.testing.assert_close(whole.value, part.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.gradient[:, :100], part.gradient, rtol=1e-4, atol=1e-7)
    assert float(whole.gradient[:, 100:].abs().sum()) == 0
