"""Empty, huge, infinite, unknown and saturated inputs: the defined results in the formulas' corner cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import (
    CSRTargets,
    asymmetric_loss,
    bce_with_logits_loss,
    decoupled_softmax_loss,
    dice_loss,
    lsep_loss,
    multi_positive_cross_entropy_loss,
    sigmoid_focal_loss,
    tversky_loss,
    zlpr_loss,
)

from .cases import Case
from .conftest import Backend
from .inputs import Reference, assert_within_budget, evaluate, random_logits, random_positives

INF = math.inf


def test_nan_logit_affects_only_its_row(served: Case, backend: Backend, generator: torch.Generator) -> None:
    if served.own.get("average") in ("macro", "micro"):
        return  # the next test has groups that cross rows
    logits = random_logits(generator, (9, 4500), torch.float32, backend.device)
    targets = random_positives(generator, (9, 4500)).to(backend.device)
    clean = evaluate(served, logits, targets, reduction="none")
    logits[4, 3000] = torch.nan
    got = evaluate(served, logits, targets, reduction="none")
    others = torch.arange(9, device=backend.device) != 4
    assert torch.equal(got.value[others], clean.value[others])
    assert torch.equal(got.gradient[others], clean.gradient[others])
    if served.element_wise:
        assert int(got.value.isnan().sum()) == 1
        assert bool(got.value[4, 3000].isnan())
        assert bool(got.gradient[4, 3000].isnan())
    else:
        assert bool(got.value[4].isnan())
        assert bool(got.gradient[4, 3000].isnan())


def test_nan_logit_affects_only_its_label(generator: torch.Generator) -> None:
    logits = random_logits(generator, (5, 2100), torch.float32, "cpu")
    targets = random_positives(generator, (5, 2100))
    logits[2, 2060] = torch.nan
    value = dice_loss(logits, targets, average="macro", reduction="none")
    assert torch.equal(value.isnan().nonzero().flatten(), torch.tensor([2060]))


@pytest.mark.parametrize("labels", (1023, 1025, 1031, 2049, 4097, 8193))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_last_label_of_a_row_counts_once(backend: Backend, dtype: torch.dtype, labels: int) -> None:
    """Sums that overflow are taken again, label by label, and the last label may be alone in its part of the row."""
    logits = torch.zeros(9, labels, dtype=dtype, device=backend.device)
    logits[:, -1] = 110.0
    targets = torch.zeros(9, labels, dtype=torch.bool, device=backend.device)
    value = zlpr_loss(logits, targets, reduction="none")
    torch.testing.assert_close(value.double().cpu(), logits.double().logsumexp(1).cpu(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("label", (0, 127, 128, 1023, 1024, 2999))
@pytest.mark.parametrize(
    "dtype", (torch.bool, torch.int64, torch.bfloat16, torch.float16, torch.float32, torch.float64)
)
def test_one_target_of_a_long_row_is_found(backend: Backend, dtype: torch.dtype, label: int) -> None:
    """Engines skip parts of rows whose targets are all 0."""
    targets = torch.zeros(3, 3000, dtype=dtype, device=backend.device)
    targets[1, label] = 1
    if dtype.is_floating_point:
        targets[2] = -0.0
    logits = torch.zeros(3, 3000, device=backend.device, requires_grad=True)
    value = zlpr_loss(logits, targets, reduction="none")
    value.sum().backward()
    expected = torch.tensor([math.log(3001), math.log(3000) + math.log(2), math.log(3001)])
    torch.testing.assert_close(value.detach().cpu(), expected)
    assert logits.grad is not None
    assert (logits.grad < 0).nonzero().tolist() == [[1, label]]


@pytest.mark.parametrize("layout", ("int64", "float32"))
def test_negative_target_is_nan_unless_ignored(
    served: Case, backend: Backend, generator: torch.Generator, layout: str
) -> None:
    """Labels of -1 and +1 must not be taken for unknown ones."""
    logits = random_logits(generator, (4, 30), torch.float32, backend.device)
    targets = random_positives(generator, (4, 30)).to(backend.device, getattr(torch, layout))
    targets[1, 7] = -1
    assert bool(served(logits, targets).isnan())
    assert bool(served(logits, targets, ignore_index=-1).isfinite())
    assert bool(served(logits, targets, ignore_index=-2).isnan())


def test_other_ignore_index(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (40, 30), torch.float32, backend.device)
    targets = random_positives(generator, (40, 30)).to(backend.device, torch.uint8)
    other, minus = targets.clone(), targets.to(torch.int32)
    other[1:, 7], minus[1:, 7] = 255, -1
    assert torch.equal(served(logits, other, ignore_index=255), served(logits, minus, ignore_index=-1))


def test_unknown_labels_have_no_share_of_smoothing(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """Unknown labels also do not count in the sum of targets of losses with competing labels."""
    logits = random_logits(generator, (4, 40), torch.float32, backend.device)
    targets = random_positives(generator, (4, 40), 0.2).to(torch.int8)
    targets[torch.rand(4, 40, generator=generator) < 0.5] = -1
    arguments: dict[str, Any] = {"reduction": "sum", "ignore_index": -1, "label_smoothing": 0.3}
    reference = Reference(served, logits, targets.to(backend.device), **arguments)
    assert_within_budget(evaluate(served, logits, targets.to(backend.device), **arguments), reference)


@pytest.mark.parametrize(
    ("dtype", "entry", "index"),
    (("uint8", 255, -1), ("uint8", 7, 2**40 + 7), ("int8", -1, 255), ("float16", 2048, 2049), ("bool", 1, 257)),
)
def test_ignore_index_is_compared_as_a_number(
    backend: Backend, generator: torch.Generator, dtype: str, entry: int, index: int
) -> None:
    """An ignore_index of -1 does not match a uint8 target of 255."""
    logits = random_logits(generator, (4, 30), torch.float32, backend.device)
    targets = random_positives(generator, (4, 30)).to(backend.device, getattr(torch, dtype))
    targets[1, 7] = entry
    got = zlpr_loss(logits, targets, ignore_index=index, reduction="none")
    expected = zlpr_loss(logits, targets, reduction="none")
    assert torch.equal(got[[0, 2, 3]], expected[[0, 2, 3]])
    assert bool(got[1].isnan()) == bool(expected[1].isnan())
    with mlloss_cuda.use_backend("reference"):
        plain = zlpr_loss(logits, targets, ignore_index=index, reduction="none")
    torch.testing.assert_close(got, plain, equal_nan=True)


def test_harmless_infinities(served: Case, backend: Backend, generator: torch.Generator) -> None:
    """-inf on a negative and +inf on a positive are perfect logits: they have no loss and no gradient."""
    targets = random_positives(generator, (6, 2100)).to(backend.device)
    logits = random_logits(generator, (6, 2100), torch.float32, backend.device)
    chosen = torch.rand((6, 2100), generator=generator).to(backend.device) < 0.3
    if served.softmax_over_labels:
        chosen &= ~targets  # a positive at +inf leaves the other positives a probability of 0
    extreme = torch.where(targets, INF, -INF)
    finite = torch.where(chosen, extreme.clamp(-3e4, 3e4), logits)
    got = evaluate(served, torch.where(chosen, extreme, logits), targets, reduction="sum")
    expected = evaluate(served, finite, targets, reduction="sum")
    assert torch.equal(got.value, expected.value)
    assert torch.equal(got.gradient, expected.gradient)
    assert float(got.gradient[chosen].abs().sum()) == 0


def test_infinite_loss_keeps_its_limit(backend: Backend) -> None:
    logits = torch.tensor([[INF, 0.0, INF, -1.0], [-INF, 0.0, 0.0, 0.0]], device=backend.device)
    targets = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]], device=backend.device)
    got = evaluate(zlpr_loss, logits, targets, reduction="none")
    assert got.value.tolist() == [INF, INF]
    # Two equal infinities share the gradient of the negatives; the other negatives get none.
    assert got.gradient[0, [0, 2]].tolist() == [0.5, 0.5]
    assert float(got.gradient[1, 0]) == -1.0


def test_infinite_negatives_of_a_decoupled_softmax(backend: Backend) -> None:
    """Equal infinities share the gradient; if all negatives are at -inf, the loss is 0."""
    logits = torch.tensor(
        [[INF, 0.0, INF, -1.0], [-INF, 0.0, 1.0, -INF], [-INF, -INF, -INF, 5.0]], device=backend.device
    )
    targets = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 1]], device=backend.device)
    got = evaluate(decoupled_softmax_loss, logits, targets, reduction="none")
    assert got.value.tolist() == [INF, INF, 0.0]
    assert got.gradient[0].tolist() == [0.5, -0.5, 0.5, -0.5]
    torch.testing.assert_close(got.gradient[1, 1:], torch.softmax(logits[1, 1:], 0))
    assert float(got.gradient[1, 0]) == -1.0
    assert got.gradient[2].tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", ((0, 5), (5, 0), (0, 0)), ids=str)
@pytest.mark.parametrize("reduction", ("none", "sum", "mean", "batchmean"))
@pytest.mark.parametrize("sparse", (False, True))
def test_empty(served: Case, backend: Backend, shape: tuple[int, int], reduction: str, sparse: bool) -> None:
    logits = torch.zeros(shape, device=backend.device)
    targets = torch.zeros(shape, dtype=torch.bool, device=backend.device)
    given = CSRTargets.from_dense(targets) if sparse else targets
    got = evaluate(served, logits, given, reduction=reduction)
    with mlloss_cuda.use_backend("reference"):
        expected = evaluate(served, logits, targets, reduction=reduction)
    torch.testing.assert_close(got.value, expected.value, equal_nan=True)
    assert got.gradient.shape == shape


def test_empty_sums_and_means(backend: Backend) -> None:
    """A sum over no elements is 0, and a mean over none is NaN, as in torch."""
    empty, none = torch.zeros(0, 5, device=backend.device), torch.zeros(0, 5, dtype=torch.bool, device=backend.device)
    for loss in (zlpr_loss, sigmoid_focal_loss, dice_loss):
        assert float(loss(empty, none, reduction="sum")) == 0
        assert math.isnan(float(loss(empty, none)))
        assert math.isnan(float(loss(empty, none, reduction="batchmean")))


def test_everything_excluded(served: Case, backend: Backend) -> None:
    logits = torch.full((4, 10), torch.nan, device=backend.device)
    targets = torch.full((4, 10), -1, device=backend.device)
    got = evaluate(served, logits, targets, ignore_index=-1)
    assert float(got.value) == 0
    assert float(got.gradient.abs().sum()) == 0


@pytest.mark.parametrize("positive", (False, True))
def test_rows_of_one_kind(served: Case, backend: Backend, generator: torch.Generator, positive: bool) -> None:
    logits = random_logits(generator, (5, 40), torch.float32, backend.device)
    targets = torch.full((5, 40), positive, device=backend.device)
    assert_within_budget(evaluate(served, logits, targets), Reference(served, logits, targets))
    # Rows of correct, wrong, and mixed logits, near the largest float16.
    ends = torch.tensor([[60000.0], [-60000.0], [60000.0], [-60000.0], [60000.0]]).repeat(1, 40)
    ends[2:] *= torch.where(torch.rand(3, 40, generator=generator) < 0.5, 1, -1)
    extreme = ends.to(backend.device, torch.float16)
    got = evaluate(served, extreme, targets)
    assert bool(got.value.isfinite())
    assert bool(got.gradient.isfinite().all())
    assert_within_budget(got, Reference(served, extreme, targets))


@pytest.mark.parametrize("magnitude", (30.0, 90.0, 9000.0, 60000.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_saturated_logits(
    served: Case, backend: Backend, generator: torch.Generator, dtype: torch.dtype, magnitude: float
) -> None:
    """No intermediate result overflows, for wrong and for correct logits."""
    logits = random_logits(generator, (6, 2100), dtype, backend.device, magnitude / 3).clamp(-magnitude, magnitude)
    targets = random_positives(generator, (6, 2100)).to(backend.device)
    got = evaluate(served, logits, targets)
    assert bool(got.value.isfinite())
    assert bool(got.gradient.isfinite().all())
    assert_within_budget(got, Reference(served, logits, targets))


def focal(gamma: float) -> Any:
    return lambda x, t: sigmoid_focal_loss(x, t, alpha=None, gamma=gamma, reduction="none")


def asymmetric(clip: float) -> Any:
    return lambda gamma: (
        lambda x, t: asymmetric_loss(x, t, gamma_neg=gamma, gamma_pos=gamma, clip=clip, reduction="none")
    )


@pytest.mark.parametrize("gamma", (0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 7.5))
@pytest.mark.parametrize("soft", (False, True))
@pytest.mark.parametrize("loss", (focal, asymmetric(0.0), asymmetric(0.05)), ids=("focal", "asymmetric", "clipped"))
def test_focus_is_finite_for_every_gamma(backend: Backend, loss: Any, gamma: float, soft: bool) -> None:
    s = torch.tensor([0.0, 1e-30, -1e-30, 5.0, -5.0, 20.0, -20.0, 80.0, -80.0, 300.0, -300.0, 3e38, -3e38])
    logits = s.repeat(4, 1).to(backend.device)
    y = torch.tensor([0.0, 1.0, 0.25, 0.875] if soft else [0.0, 1.0, 0.0, 1.0], device=backend.device)
    targets = y[:, None].expand_as(logits)
    call = loss(gamma)
    got = evaluate(call, logits, targets)
    assert bool(got.gradient.isfinite().all())
    with mlloss_cuda.use_backend("reference"):
        exact = evaluate(call, logits.double(), targets)
    small = logits.abs() < 1e3
    torch.testing.assert_close(got.value[small].double(), exact.value[small], rtol=2e-5, atol=1e-30)
    torch.testing.assert_close(got.gradient[small].double(), exact.gradient[small], rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("clip", (0.01, 0.05, 0.22280849, 0.4713295))
@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 0.5))
def test_asymmetric_is_flat_at_its_clip(backend: Backend, clip: float, gamma: float) -> None:
    """The logits are 800 neighbours of the point where p equals the clip, and confident positives."""
    edge = torch.tensor([math.log(clip / (1 - clip))])
    s = (edge.view(torch.int32) + torch.arange(-400, 400, dtype=torch.int32)).view(torch.float32)
    logits = torch.stack((s, torch.linspace(10.0, 88.0, 800))).to(backend.device)
    targets = torch.tensor([[0], [1]], device=backend.device).expand_as(logits)
    call = lambda x, t, **a: asymmetric_loss(x, t, gamma_neg=gamma, gamma_pos=gamma, clip=clip, **a)  # noqa: E731
    got = evaluate(call, logits, targets, reduction="none")
    assert bool((got.value >= 0).all())
    assert float(got.value[0].max()) < 1e-4
    with mlloss_cuda.use_backend("reference"):
        exact = evaluate(call, logits.double(), targets, reduction="none")
    torch.testing.assert_close(got.value.double(), exact.value, rtol=1e-4, atol=2e-6)
    # With a power below 1, a rounding of the logit decides whether the loss has a slope there.
    parts = slice(None) if gamma >= 1 else slice(1, None)
    torch.testing.assert_close(got.gradient[parts].double(), exact.gradient[parts], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("gamma", (0.0, 1.0, 2.0, 0.5))
@pytest.mark.parametrize("sign", (1.0, -1.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_nan_is_nan_for_every_gamma(backend: Backend, gamma: float, sign: float, dtype: torch.dtype) -> None:
    """A NaN of either sign is recognised: on x86, inf - inf gives one with the sign bit set."""
    logits = torch.full((3, 64), 0.5, dtype=dtype, device=backend.device)
    logits[:, 7] = math.copysign(math.nan, sign)
    targets = torch.tensor([[0.0], [1.0], [0.25]], device=backend.device).expand_as(logits)
    for loss in (focal, asymmetric(0.0), asymmetric(0.05)):
        for rows in (slice(0, 1), slice(1, 2), slice(0, 2), slice(2, 3)):
            got = evaluate(loss(gamma), logits[rows], targets[rows])
            assert bool(got.value[:, 7].isnan().all())
            assert bool(got.gradient[:, 7].isnan().all())
            assert int(got.value.isnan().sum()) == got.value.shape[0]


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_focus_below_one_is_finite_in_half_precision(backend: Backend, dtype: torch.dtype) -> None:
    """In the logits' dtype 1 - p rounds to 0, where the gradient of a power below 1 is infinite."""
    s = torch.tensor([0.0, 9.0, -9.0, 20.0, -20.0, 60000.0, -60000.0], dtype=dtype, device=backend.device)
    logits = s.repeat(2, 1)
    targets = torch.tensor([[0], [1]], device=backend.device).expand_as(logits)
    for loss in (focal, asymmetric(0.0), asymmetric(0.05)):
        for gamma in (0.0, 0.1, 0.5, 0.9):
            got = evaluate(loss(gamma), logits, targets)
            assert bool(got.value.isfinite().all())
            assert bool(got.gradient.isfinite().all())
            assert_within_budget(got, Reference(loss(gamma), logits, targets))


@pytest.mark.parametrize("gamma", (0.0, 0.3, 0.75, 1.0, 3.0))
@pytest.mark.parametrize("average", ("samples", "macro", "micro"))
def test_powers_of_tversky_are_finite_at_a_loss_of_zero(backend: Backend, gamma: float, average: str) -> None:
    targets = torch.tensor([[1, 0, 1], [0, 1, 1]], device=backend.device)
    for magnitude in (90.0, 60000.0, INF):
        logits = torch.where(targets > 0, magnitude, -magnitude)
        got = evaluate(tversky_loss, logits, targets, gamma=gamma, smooth=0.0, average=average)
        assert float(got.value) == 0
        assert float(got.gradient.abs().sum()) < 1e-30


def test_log_dice_without_overlap(backend: Backend) -> None:
    """The loss is infinite without smoothing, with a finite gradient; with smoothing it follows the definition."""
    logits = torch.tensor([[1.0, -2.0, -1.0]], device=backend.device)
    none = torch.zeros(1, 3, dtype=torch.bool, device=backend.device)
    got = evaluate(dice_loss, logits, none, log=True, smooth=0.0)
    assert float(got.value) == INF
    assert bool(got.gradient.isfinite().all())
    call = lambda x, t: dice_loss(x, t, log=True)  # noqa: E731
    assert_within_budget(evaluate(call, logits, none), Reference(call, logits, none))


def test_tiny_losses_survive(backend: Backend) -> None:
    """A sum that is tiny beside 1 needs log1p, and is kept as (m, S), whose logarithm would lose it."""
    logits = torch.full((1, 4), -25.0, device=backend.device)
    value = zlpr_loss(logits, torch.zeros(1, 4, dtype=torch.bool, device=backend.device))
    assert float(value) == pytest.approx(4 * math.exp(-25), rel=1e-6)


@pytest.mark.parametrize("rows", (1, 16))
@pytest.mark.parametrize("weight", (1e-20, 1e-10, 1.0))
@pytest.mark.parametrize(
    "loss", (zlpr_loss, lsep_loss, multi_positive_cross_entropy_loss, decoupled_softmax_loss), ids=lambda f: f.__name__
)
def test_exponentials_near_the_largest_float(
    backend: Backend, generator: torch.Generator, loss: Any, weight: float, rows: int
) -> None:
    """Logits from 88.3 to 88.7 give finite results where e^s overflows, even if small weights keep the sums small."""
    logits = torch.randn(rows, 2050, generator=generator)
    logits[:, 7], logits[:, 8], logits[:, 1030] = 88.3, 88.5, -88.7
    targets = torch.zeros(rows, 2050, dtype=torch.bool)
    targets[:, [3, 1030]] = True
    logits, targets = logits.to(backend.device), targets.to(backend.device)

    def call(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = loss(x, y, weight=torch.full((2050,), weight, dtype=x.dtype, device=x.device))
        return value

    got = evaluate(call, logits, targets)
    assert got.value.isfinite()
    assert got.gradient.isfinite().all()
    # Each exponent is rounded in float32, which is a relative error of |s| roundings in e^s.
    exact = Reference(call, logits, targets).exact
    torch.testing.assert_close(got.value.double(), exact.value, rtol=1e-6, atol=0.0)
    largest = float(exact.gradient.abs().max())
    torch.testing.assert_close(got.gradient.double(), exact.gradient, rtol=0.0, atol=2e-5 * largest)


@pytest.mark.parametrize("level", (30.0, 80.0, 88.2, 88.5, 100.0, 1000.0))
@pytest.mark.parametrize("share", (1e-20, 1e-12, 1e-8, 1e-4))
def test_tiny_weights_of_wrong_labels_survive(backend: Backend, share: float, level: float) -> None:
    """A loss of log(1 + share * e^level) is no logarithm of 0, however small the share is beside the maximum's 1."""
    dtype = torch.float32
    exact = math.log1p(share * math.exp(level)) if level < 700.0 else level + math.log(share)
    soft = torch.tensor([[share]], dtype=dtype, device=backend.device)
    none = torch.zeros(1, 2, dtype=torch.bool, device=backend.device)
    weight = torch.tensor([share, 1.0], dtype=dtype, device=backend.device)
    calls = (
        (lambda x, y: zlpr_loss(x, y), torch.tensor([[-level]], dtype=dtype, device=backend.device), soft, -1.0),
        (
            lambda x, y: zlpr_loss(x, y, weight=weight),
            torch.tensor([[level, -300.0]], dtype=dtype, device=backend.device),
            none,
            1.0,
        ),
    )
    for call, logits, targets, sign in calls:
        got = evaluate(call, logits, targets)
        # e^level has the relative error of a rounding of level in float32. A soft target adds log(1 + e^-level), which
        # is below 1e-12.
        rounding = 1e-6 + 1e-7 * min(level, 100.0)
        assert float(got.value) == pytest.approx(exact, rel=rounding, abs=1e-12)
        assert float(got.gradient[0, 0]) == pytest.approx(sign * -math.expm1(-exact), rel=rounding, abs=1e-12)


@pytest.mark.parametrize("average", ("samples", "macro", "micro"))
@pytest.mark.parametrize("level", (-20.0, -44.0, -47.0, -50.0, -80.0))
def test_squares_of_tiny_probabilities_have_a_gradient(backend: Backend, average: str, level: float) -> None:
    """The gradient is 0 if all targets are 0: the loss is then P / P = 1, or 0 if P underflows."""
    logits = torch.full((1, 3), level, device=backend.device)
    none = torch.zeros(1, 3, device=backend.device)
    for targets in (none, none.bool(), CSRTargets.from_dense(none)):
        call = lambda x, y: dice_loss(x, y, average=average, squared=True, smooth=0.0)  # noqa: E731
        assert torch.equal(evaluate(call, logits, targets).gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("labels", (1, 15, 16, 1_000, 1_000_003))
@pytest.mark.parametrize("level", (-20.0, 0.0, 6.0))
@pytest.mark.parametrize("layout", ("hard", "soft"))
def test_sums_of_softplus_are_precise(backend: Backend, labels: int, level: float, layout: str) -> None:
    """Tiny terms of many labels, and the largest of a shared logarithm, err by a rounding or two of each term."""
    logits = torch.full((1, labels), level, device=backend.device)
    targets = torch.zeros(1, labels, device=backend.device, dtype=torch.bool if layout == "hard" else torch.float32)
    if layout == "soft":
        targets[:] = 0.25
    got = evaluate(bce_with_logits_loss, logits, targets, reduction="sum")
    share = 0.0 if layout == "hard" else 0.25
    each = math.log1p(math.exp(-abs(level))) + max(level, 0.0) - share * level
    assert float(got.value) == pytest.approx(labels * each, rel=3e-7)
    slope = 1 / (1 + math.exp(-level)) - share
    torch.testing.assert_close(got.gradient, torch.full_like(logits, slope), rtol=5e-7, atol=1e-7 * share)


def test_large_equal_logits_are_precise(backend: Backend) -> None:
    """The gradient is exp(s - m) / S, and errs by roundings; exp(s - log S) would err by 3e-4."""
    logits = torch.full((1, 1000), 9000.0, device=backend.device)
    got = evaluate(zlpr_loss, logits, torch.zeros(1, 1000, dtype=torch.bool, device=backend.device))
    torch.testing.assert_close(got.gradient, torch.full_like(logits, 1e-3), rtol=5e-7, atol=0)


@pytest.mark.parametrize("weighted", (False, True))
def test_few_targets_of_many_labels_are_smoothed_precisely(
    served: Case, backend: Backend, generator: torch.Generator, weighted: bool
) -> None:
    """Each row's relative error is small: tiny equal targets beside three that are nearly 1 keep their digits.

    A budget for whole batches would not notice: with a fifth of the labels positive, the others' sum is negligible.
    """
    if served.element_wise or served.grouping != "samples":
        return
    logits = random_logits(generator, (6, 32000), torch.float32, "cpu")
    targets = torch.zeros(6, 32000, dtype=torch.bool)
    targets[:, :3] = True
    targets = targets.gather(1, torch.rand(6, 32000, generator=generator).argsort(1))
    arguments: dict[str, Any] = {"reduction": "none", "label_smoothing": 0.1}
    if weighted:
        arguments["weight"] = torch.rand(32000, generator=generator) + 0.5
    given = {name: x.to(backend.device) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    got = served(logits.to(backend.device), targets.to(backend.device), **given).cpu().double()
    with mlloss_cuda.use_backend("reference"):
        plain = served(logits, targets, **arguments).double()
        exact = served(logits.double(), targets, **arguments)
    rounding = torch.finfo(torch.float32).eps
    budget = 4 * max(float(((plain - exact) / exact).abs().max()), rounding / 2)
    error = float(((got - exact) / exact).abs().max())
    assert error <= budget, f"relative error {error:.2e}, budget {budget:.2e}"


@pytest.mark.reference_too
@pytest.mark.parametrize("level", (100.0, 1000.0, 60000.0))
def test_large_positives_count_wherever_they_lie(backend: Backend, level: float) -> None:
    """A positive and a negative far above all others give log(1 + e), in whichever tile or block they lie."""
    for loss in (lsep_loss, decoupled_softmax_loss, multi_positive_cross_entropy_loss):
        logits = torch.zeros(3, 5000, device=backend.device)
        targets = torch.zeros(3, 5000, dtype=torch.bool, device=backend.device)
        for row, (positive, negative) in enumerate(((0, 1), (4999, 2), (2500, 4000))):
            logits[row, positive], logits[row, negative] = level, level + 1
            targets[row, positive] = True
        got = evaluate(loss, logits, targets, reduction="none")
        torch.testing.assert_close(got.value.cpu(), torch.full((3,), math.log1p(math.e)))
        slope = math.e / (1 + math.e)
        torch.testing.assert_close(got.gradient[targets].cpu(), torch.full((3,), -slope))
        torch.testing.assert_close(got.gradient[logits == level + 1].cpu(), torch.full((3,), slope))


def test_few_long_rows(served: Case, backend: Backend, generator: torch.Generator) -> None:
    logits = random_logits(generator, (2, 131_073), torch.float32, backend.device)
    dense = random_positives(generator, (2, 131_073), 1e-4)
    got = evaluate(served, logits, CSRTargets.from_dense(dense).to(backend.device))
    assert_within_budget(got, Reference(served, logits, dense.to(backend.device)))
