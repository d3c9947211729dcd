"""Facts about each loss that need no reference: identities, bounds, published numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mlloss_cuda import (
    CSRTargets,
    asymmetric_loss,
    bce_with_logits_loss,
    decoupled_softmax_loss,
    dice_loss,
    jaccard_loss,
    lsep_loss,
    margin_bce_loss,
    multi_positive_cross_entropy_loss,
    sigmoid_focal_loss,
    squared_hinge_loss,
    tversky_loss,
    zlpr_loss,
)

from .cases import Case
from .conftest import Backend
from .inputs import evaluate, random_logits, random_positives, random_probabilities


def inputs(generator: torch.Generator, backend: Backend, shape: tuple[int, int] = (7, 2500)):
    logits = random_logits(generator, shape, torch.float32, backend.device)
    return logits, random_positives(generator, shape, 0.02).to(backend.device)


# Each row: m, the negatives' term, a positive's gradient, for 131,073 labels with two positives at +m, the rest at -m.
SECTION_5 = ((8, 3.8060, -3.35e-4), (12, 0.5907, -6.1e-6), (16, 0.0146, -1.1e-7), (20, 0.00027, -2.1e-9))


@pytest.mark.parametrize(("m", "negatives", "gradient"), SECTION_5)
@pytest.mark.parametrize("layout", ("bool", "csr"))
def test_positives_are_excluded_not_subtracted(
    backend: Backend, m: float, negatives: float, gradient: float, layout: str
) -> None:
    """The trick "all minus positives" fails this table in float32: +0.50 instead of -1.1e-7 at m = 16."""
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
        expected = evaluate(F.binary_cross_entropy_with_logits, logits.double(), y.double())
        rounding = torch.finfo(torch.float32).eps / y.numel()
        torch.testing.assert_close(got.value.double(), expected.value, rtol=2e-6, atol=1e-9)
        torch.testing.assert_close(got.gradient.double(), expected.gradient, rtol=1e-5, atol=4 * rounding)


@pytest.mark.parametrize("reduction", ("none", "sum", "mean"))
def test_bce_equals_torch(backend: Backend, generator: torch.Generator, reduction: str) -> None:
    logits, targets = inputs(generator, backend)
    sides = {
        name: (torch.rand(2500, generator=generator) + 0.5).to(backend.device) for name in ("weight", "pos_weight")
    }
    for y in (targets.float(), random_probabilities(generator, (7, 2500)).float().to(backend.device)):
        got = evaluate(bce_with_logits_loss, logits, y, reduction=reduction, **sides)
        wide = {name: side.double() for name, side in sides.items()}
        expected = evaluate(
            F.binary_cross_entropy_with_logits, logits.double(), y.double(), reduction=reduction, **wide
        )
        torch.testing.assert_close(got.value.double(), expected.value, rtol=2e-6, atol=1e-9)
        torch.testing.assert_close(got.gradient.double(), expected.gradient, rtol=2e-6, atol=3e-7)


def test_bce_of_zeros_and_ones_is_the_logistic_loss_of_signs(backend: Backend, generator: torch.Generator) -> None:
    """-y log p - (1 - y) log (1 - p), y in {0, 1}, is log(1 + e^(-t s)), t in {-1, 1}."""
    logits, targets = inputs(generator, backend)
    signs = torch.where(targets, 1.0, -1.0).double()
    got = evaluate(bce_with_logits_loss, logits, targets, reduction="none")
    expected = evaluate(F.soft_margin_loss, logits.double(), signs, reduction="none")
    torch.testing.assert_close(got.value.double(), expected.value, rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(got.gradient.double(), expected.gradient, rtol=2e-6, atol=3e-7)


def test_bce_equals_torch_multilabel_soft_margin(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    weight = torch.rand(2500, generator=generator).to(backend.device)
    got = evaluate(bce_with_logits_loss, logits, targets, weight=weight)
    expected = evaluate(F.multilabel_soft_margin_loss, logits, targets.float(), weight=weight)
    torch.testing.assert_close(got.value, expected.value)
    torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-5, atol=1e-10)


def test_symmetric_asymmetric_loss_is_focal(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    for gamma in (0.0, 0.5, 2.0):
        got = evaluate(asymmetric_loss, logits, targets, gamma_neg=gamma, gamma_pos=gamma, clip=0.0)
        expected = evaluate(sigmoid_focal_loss, logits, targets, alpha=None, gamma=gamma)
        torch.testing.assert_close(got.value, expected.value)
        torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-5, atol=1e-10)


def test_detached_asymmetric_gradient_is_weighted_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    p = logits.double().sigmoid()
    got = evaluate(asymmetric_loss, logits, targets, gamma_pos=0.5, clip=0.1, detach_focal_weight=True, reduction="sum")
    u = (p - 0.1).clamp(min=0)
    expected = torch.where(targets, -((1 - p) ** 0.5) * (1 - p), u**4 * p * (1 - p) / (1 - u))
    torch.testing.assert_close(got.gradient.double(), expected, rtol=1e-5, atol=1e-7)


def test_clipped_negatives_cost_nothing(backend: Backend) -> None:
    s = torch.tensor([[-2.945, -2.944, 0.0, 3.0]], device=backend.device)  # logit(0.05) = -2.94444
    got = evaluate(asymmetric_loss, s, torch.zeros_like(s), gamma_neg=0.0, reduction="none")
    assert got.value[0, 0] == 0
    assert got.gradient[0, 0] == 0
    assert bool((got.gradient[0, 1:] > 0).all())
    assert float(got.value[0, 2]) == pytest.approx(-math.log(0.55), rel=1e-6)


def test_margin_is_all_or_nothing(backend: Backend) -> None:
    """The loss is BCE below the margin, 0 above it, and half of BCE at it, as theta(0) = 1/2."""
    tau = float(torch.tensor(math.log(4.0)))
    s = torch.tensor([[tau - 1e-6, tau, tau + 1e-6, -60.0]], device=backend.device)
    got = evaluate(margin_bce_loss, s, torch.ones_like(s), reduction="none")
    bce = evaluate(bce_with_logits_loss, s, torch.ones_like(s), reduction="none")
    share = torch.tensor([[1.0, 0.5, 0.0, 1.0]], device=backend.device)
    torch.testing.assert_close(got.value, share * bce.value)
    torch.testing.assert_close(got.gradient, share * bce.gradient)
    mirrored = evaluate(margin_bce_loss, -s, torch.zeros_like(s), reduction="none")
    assert torch.equal(mirrored.value, got.value)
    assert torch.equal(mirrored.gradient, -got.gradient)


def test_hand_worked_squared_hinge(backend: Backend) -> None:
    s = torch.tensor([[0.5, 2.0, -2.0, -3.0]], device=backend.device)
    got = evaluate(squared_hinge_loss, s, torch.tensor([[1, 0, 1, 0]], device=backend.device), reduction="none")
    assert got.value.tolist() == [[0.25, 9.0, 9.0, 0.0]]
    assert got.gradient.tolist() == [[-1.0, 6.0, -6.0, 0.0]]


@pytest.mark.parametrize("reduction", ("mean", "sum", "batchmean"))
@pytest.mark.parametrize("in_place", (False, True))
def test_rescaled_focal_is_bce_in_value_and_focal_in_direction(
    backend: Backend, generator: torch.Generator, reduction: str, in_place: bool
) -> None:
    logits, targets = inputs(generator, backend)
    weight = torch.rand(2500, generator=generator).to(backend.device)
    arguments: dict[str, Any] = {"weight": weight, "reduction": reduction}

    def rescaled(x: torch.Tensor, y: Any) -> torch.Tensor:
        return sigmoid_focal_loss(x * 1, y, rescale=True, inplace_backward=in_place, **arguments)

    got = evaluate(rescaled, logits, targets)
    focal = evaluate(sigmoid_focal_loss, logits, targets, **arguments)
    bce = evaluate(bce_with_logits_loss, logits, targets, **arguments)
    torch.testing.assert_close(got.value, bce.value)
    torch.testing.assert_close(got.gradient, focal.gradient * (bce.value / focal.value), rtol=1e-5, atol=1e-10)
    csr = CSRTargets.from_dense(targets.cpu()).to(backend.device)
    torch.testing.assert_close(evaluate(rescaled, logits, csr).gradient, got.gradient)


def test_rescaled_focal_of_perfect_logits(backend: Backend) -> None:
    targets = torch.tensor([[1, 0]], device=backend.device)
    perfect = torch.where(targets > 0, math.inf, -math.inf)
    got = evaluate(sigmoid_focal_loss, perfect, targets, rescale=True)
    assert float(got.value) == 0
    assert float(got.gradient.abs().sum()) == 0


def test_one_label_makes_zlpr_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend, (50, 1))
    got = evaluate(zlpr_loss, logits, targets)
    expected = evaluate(F.binary_cross_entropy_with_logits, logits, targets.float())
    torch.testing.assert_close(got.value, expected.value)
    # PyTorch's sigmoid(s) - 1 has a rounding error relative to 1, divided by the 50 rows.
    torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-5, atol=5e-9)


def test_zlpr_is_at_most_the_sum_of_bce(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    bce = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").sum(-1)
    assert bool((zlpr_loss(logits, targets, reduction="none") <= bce * (1 + 1e-6)).all())


def test_zlpr_gradient_mass_is_below_one(backend: Backend, generator: torch.Generator) -> None:
    """The mass is 1 - e^-A, with the logarithm A of that side."""
    logits, targets = inputs(generator, backend)
    gradient = evaluate(zlpr_loss, logits, targets, reduction="sum").gradient
    sides = ((gradient.clamp(min=0), logits, ~targets), (-gradient.clamp(max=0), -logits, targets))
    for side, s, taken in sides:
        assert bool((side.sum(-1) <= 1 + 1e-6).all())
        rest = 1 / (1 + torch.where(taken, s.double().exp(), 0.0).sum(-1))
        torch.testing.assert_close(side.double().sum(-1), 1 - rest, rtol=1e-5, atol=1e-7)


def test_lsep_is_at_most_zlpr(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    lsep, zlpr = (loss(logits, targets, reduction="none") for loss in (lsep_loss, zlpr_loss))
    assert bool((lsep <= zlpr * (1 + 1e-6)).all())


def test_lsep_gradient_mass_is_the_same_on_both_sides(backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    gradient = evaluate(lsep_loss, logits, targets, reduction="sum").gradient
    up, down = gradient.clamp(min=0).sum(-1), -gradient.clamp(max=0).sum(-1)
    torch.testing.assert_close(up, down, rtol=1e-5, atol=1e-7)
    assert bool((up <= 1 + 1e-6).all())


def test_hand_worked_lsep(backend: Backend) -> None:
    logits = torch.tensor([[0.0, math.log(2), 0.0, math.log(3)]], device=backend.device)
    targets = torch.tensor([[1, 1, 0, 0]], device=backend.device)
    # Pairs: 1, 3, 1/2, 3/2
    assert float(lsep_loss(logits, targets)) == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize("shift", (-60000.0, -200.0, -95.0, 95.0, 200.0, 60000.0))
@pytest.mark.parametrize("loss", (lsep_loss, multi_positive_cross_entropy_loss, decoupled_softmax_loss))
def test_loss_depends_only_on_differences(
    backend: Backend, generator: torch.Generator, loss: Any, shift: float
) -> None:
    """A shift of all logits changes neither value nor gradient, however large it is."""
    logits, targets = inputs(generator, backend)
    steps = (logits * 16).round() / 16  # exact beside every shift
    targets[2] = False
    moved, straight = evaluate(loss, steps + shift, targets), evaluate(loss, steps, targets)
    torch.testing.assert_close(moved.value, straight.value, rtol=2e-5, atol=0)
    torch.testing.assert_close(moved.gradient, straight.gradient, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize(
    ("loss", "smoothing"),
    (
        (multi_positive_cross_entropy_loss, 0.0),
        (multi_positive_cross_entropy_loss, 0.1),
        (decoupled_softmax_loss, 0.0),
    ),
)
@pytest.mark.parametrize("layout", ("bool", "csr"))
def test_softmax_losses_of_one_positive_equal_torch(
    backend: Backend, generator: torch.Generator, layout: str, loss: Any, smoothing: float
) -> None:
    logits, _ = inputs(generator, backend)
    labels = torch.randint(0, 2500, (7,), generator=generator)
    csr = CSRTargets.from_lists([[int(label)] for label in labels], 2500).to(backend.device)
    weight = torch.rand(2500, generator=generator).to(backend.device)
    weight[::3] = 0
    given = csr if layout == "csr" else csr.to_dense().bool()
    arguments: dict[str, Any] = {"weight": weight, "label_smoothing": smoothing, "reduction": "sum"}
    got = evaluate(loss, logits, given, **arguments)
    expected = evaluate(F.cross_entropy, logits, labels.to(backend.device), **arguments)
    torch.testing.assert_close(got.value, expected.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-4, atol=1e-8)


def test_decoupled_softmax_equals_torch_with_other_positives_masked(
    backend: Backend, generator: torch.Generator
) -> None:
    """The loss is the mean over a row's positives of each one's cross-entropy, with the other positives masked.

    The mean also counts positives of weight 0.
    """
    logits, targets = inputs(generator, backend, (5, 300))
    targets[0], targets[1] = False, True
    targets[2, 7] = targets[3, 3] = targets[4, 299] = True
    weight = torch.rand(300, generator=generator).to(backend.device)
    weight[::3] = 0
    got = evaluate(decoupled_softmax_loss, logits, targets, weight=weight, reduction="none")
    x = logits.double().requires_grad_()
    rows = []
    for row, positives in zip(x, targets, strict=True):
        terms = [
            F.cross_entropy(row[~positives | (torch.arange(300, device=row.device) == i)], (~positives[:i]).sum())
            * weight[i]
            for i in positives.nonzero().flatten().tolist()
        ]
        rows.append(torch.stack(terms).mean() if terms else row.sum() * 0)
    expected = torch.stack(rows)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(got.value.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.gradient.double(), gradient, rtol=1e-4, atol=1e-7)


def test_positives_of_a_decoupled_softmax_do_not_compete(backend: Backend) -> None:
    logits = torch.tensor([[20.0, 30.0, -20.0, -20.0]], device=backend.device)
    targets = torch.tensor([[1, 1, 0, 0]], device=backend.device)
    assert float(decoupled_softmax_loss(logits, targets)) == pytest.approx(math.exp(-40), rel=1e-4)
    assert float(multi_positive_cross_entropy_loss(logits, targets)) > 9


@pytest.mark.parametrize("shape", ((), (7, 1), (2500,)), ids=("all", "rows", "labels"))
def test_threshold_is_a_shift(backend: Backend, generator: torch.Generator, shape: tuple[int, ...]) -> None:
    """A threshold shifts the logits, and its gradient is minus the sum of their gradients."""
    logits, targets = inputs(generator, backend)
    threshold = torch.randn(shape, generator=generator).to(backend.device).requires_grad_()
    got = evaluate(lambda x, t: zlpr_loss(x, t, threshold=threshold), logits, targets)
    expected = evaluate(lambda x, t: zlpr_loss(x - threshold.detach(), t), logits, targets)
    torch.testing.assert_close(got.value, expected.value)
    torch.testing.assert_close(got.gradient, expected.gradient, rtol=1e-4, atol=1e-8)
    (turned,) = torch.autograd.grad(zlpr_loss(logits, targets, threshold=threshold), threshold)
    torch.testing.assert_close(turned, -expected.gradient.sum_to_size(shape), rtol=1e-4, atol=1e-6)


def test_threshold_replaces_the_one_in_the_logs(backend: Backend, generator: torch.Generator) -> None:
    """TLPR as published has e^s0 and e^-s0 instead of ZLPR's 1. In closed form ds0 is e^-A- minus e^-A+."""
    logits, targets = inputs(generator, backend)
    s, s0 = logits.double(), torch.randn(7, 1, generator=generator, dtype=torch.float64).to(backend.device)
    above = (s0.exp() + torch.where(targets, 0.0, s.exp()).sum(-1, keepdim=True)).log()
    below = ((-s0).exp() + torch.where(targets, (-s).exp(), 0.0).sum(-1, keepdim=True)).log()
    threshold = s0.float().requires_grad_()
    value = zlpr_loss(logits, targets, threshold=threshold, reduction="none")
    torch.testing.assert_close(value.double(), (above + below).squeeze(-1), rtol=2e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), threshold)
    torch.testing.assert_close(gradient.double(), (s0 - above).exp() - (-s0 - below).exp(), rtol=1e-4, atol=2e-6)


def test_soft_zlpr_optimum_is_sigmoid_of_twice_the_logit(backend: Backend, generator: torch.Generator) -> None:
    """The minimum of the loss is 2 log(1 + sum of the labels' standard deviations)."""
    logits = random_logits(generator, (5, 30), torch.float64, backend.device, 1.0)
    y = torch.sigmoid(2 * logits)
    got = evaluate(zlpr_loss, logits, y, reduction="none")
    assert float(got.gradient.abs().max()) < 1e-14
    torch.testing.assert_close(got.value, 2 * (y * (1 - y)).sqrt().sum(-1).log1p())


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


@pytest.mark.parametrize("average", ("samples", "macro", "micro"))
def test_tversky_of_halves_is_dice(backend: Backend, generator: torch.Generator, average: str) -> None:
    logits, targets = inputs(generator, backend)
    got = evaluate(tversky_loss, logits, targets, smooth=0.5, average=average)
    expected = evaluate(dice_loss, logits, targets, smooth=1.0, average=average)
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)


@pytest.mark.parametrize("average", ("samples", "macro", "micro"))
def test_jaccard_is_tversky_of_ones_and_a_function_of_dice(
    backend: Backend, generator: torch.Generator, average: str
) -> None:
    logits, targets = inputs(generator, backend)
    jaccard = evaluate(jaccard_loss, logits, targets, average=average)
    tversky = evaluate(tversky_loss, logits, targets, alpha=1.0, beta=1.0, average=average)
    assert torch.equal(jaccard.value, tversky.value)
    assert torch.equal(jaccard.gradient, tversky.gradient)
    unsmoothed = jaccard_loss(logits, targets, smooth=0.0, average=average, reduction="none")
    dice = dice_loss(logits, targets, smooth=0.0, average=average, reduction="none")
    torch.testing.assert_close(unsmoothed, 2 * dice / (1 + dice), rtol=1e-5, atol=1e-6)


def test_hand_worked_tversky(backend: Backend) -> None:
    logits = torch.zeros(1, 4, device=backend.device)
    targets = torch.tensor([[1, 1, 1, 0]], device=backend.device)
    # p = 1/2 each: I = 3/2, false 1/2, missed 3/2
    plain = 1 - 2.5 / (2.5 + 0.2 * 0.5 + 0.8 * 1.5)
    assert float(tversky_loss(logits, targets, alpha=0.2, beta=0.8)) == pytest.approx(plain)
    assert float(tversky_loss(logits, targets, alpha=0.2, beta=0.8, gamma=0.5)) == pytest.approx(plain**0.5)
    assert float(jaccard_loss(logits, targets)) == pytest.approx(1 - 2.5 / 4.5)
    assert float(dice_loss(logits, targets, log=True)) == pytest.approx(-math.log(4 / 6))


def test_self_adjusting_dice_stops_where_its_probability_peaks(backend: Backend) -> None:
    """(1 - p)^a p has its maximum at p = 1 / (1 + a), and equals p for a = 0."""
    logits = torch.tensor([[0.0, -1.0, 2.0]], device=backend.device)
    targets = torch.tensor([[1, 0, 1]], device=backend.device)
    got = evaluate(dice_loss, logits, targets, self_adjusting_alpha=1.0)
    assert float(got.gradient[0, 0]) == 0
    small = evaluate(dice_loss, logits, targets, self_adjusting_alpha=1e-9)
    plain = evaluate(dice_loss, logits, targets)
    torch.testing.assert_close(small.value, plain.value)
    torch.testing.assert_close(small.gradient, plain.gradient, rtol=1e-5, atol=1e-8)


def test_permuting_labels_permutes_gradients(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits, targets = inputs(generator, backend)
    order = torch.randperm(2500, generator=generator).to(backend.device)
    straight = evaluate(served, logits, targets, reduction="sum")
    permuted = evaluate(served, logits[:, order], targets[:, order], reduction="sum")
    torch.testing.assert_close(permuted.value, straight.value, rtol=1e-5, atol=1e-6)
    # The gradient k softmax - y subtracts two numbers of the order of k.
    largest = max(1.0, float(targets.sum(1).max()) if served.softmax_over_labels else 1.0)
    torch.testing.assert_close(permuted.gradient, straight.gradient[:, order], rtol=1e-4, atol=1e-7 * largest)


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
    if served.spec == "decoupled_softmax":
        return  # a label of weight 0 is also not a negative there, which a test above covers
    if served.softmax_over_labels:
        # A label of weight 0 is not a target, but still competes.
        masked = targets & (weight > 0)
        expected = evaluate(served, logits, masked, reduction="sum")
        torch.testing.assert_close(whole.value, expected.value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole.gradient, expected.gradient, rtol=1e-4, atol=1e-7)
        return
    part = evaluate(served, logits[:, :100], targets[:, :100], reduction="sum")
    if served.own.get("average") != "macro":
        torch.testing.assert_close(whole.value, part.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.gradient[:, :100], part.gradient, rtol=1e-4, atol=1e-7)
    assert float(whole.gradient[:, 100:].abs().sum()) == 0
