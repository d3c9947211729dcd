"""Losses of other libraries under their names, compared with definitions in plain torch and published test values."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlloss_cuda import (
    BCEWithLogitsLoss,
    CSRTargets,
    DiceLoss,
    SigmoidFocalLoss,
    ZLPRLoss,
    hf_compute_loss,
    zlpr_loss,
)
from mlloss_cuda.compat import _monai_inputs, asl, bert4torch, monai, timm, torchvision
from mlloss_cuda.compat._monai_inputs import softmax_log_odds

from .inputs import random_positives

SIGNATURES = {
    torchvision.sigmoid_focal_loss: "inputs, targets, alpha=0.25, gamma=2, reduction='none'",
    asl.AsymmetricLoss: "gamma_neg=4, gamma_pos=1, clip=0.05, eps=1e-08, disable_torch_grad_focal_loss=True",
    asl.AsymmetricLossOptimized: "gamma_neg=4, gamma_pos=1, clip=0.05, eps=1e-08, disable_torch_grad_focal_loss=False",
    timm.AsymmetricLossMultiLabel: "gamma_neg=4, gamma_pos=1, clip=0.05, eps=1e-08, "
    "disable_torch_grad_focal_loss=False, smoothing=0.0, reduction='batchmean', weight=None, pos_weight=None",
    timm.BinaryCrossEntropy: "smoothing=0.1, target_threshold=None, weight=None, reduction='mean', sum_classes=False, "
    "pos_weight=None, smooth_dense=False",
    timm.ZlprLoss: "*args, **kwargs",
    monai.DiceLoss: "include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
    "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, weight=None, "
    "soft_label=False, ignore_index=None",
    monai.TverskyLoss: "include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
    "alpha=0.5, beta=0.5, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, soft_label=False, "
    "ignore_index=None",
    monai.GeneralizedDiceLoss: "include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, "
    "other_act=None, w_type='square', reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, "
    "soft_label=False",
    monai.DiceCELoss: "include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
    "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, weight=None, "
    "lambda_dice=1.0, lambda_ce=1.0, label_smoothing=0.0",
    monai.DiceFocalLoss: "include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
    "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, gamma=2.0, "
    "weight=None, lambda_dice=1.0, lambda_focal=1.0, alpha=None",
    monai.FocalLoss: "include_background=True, to_onehot_y=False, gamma=2.0, alpha=None, weight=None, "
    "reduction='mean', use_softmax=False, ignore_index=None",
    bert4torch.MultilabelCategoricalCrossentropy: "**kwargs",
    bert4torch.SparseMultilabelCategoricalCrossentropy: "mask_zero=False, epsilon=1e-07, **kwargs",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f"{f.__module__.rpartition('.')[2]}.{f.__name__}")
def test_signature(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    shown = [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters]
    assert ", ".join(shown) == SIGNATURES[function]


def agree(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], x: Tensor, *targets: Any) -> None:
    """Assert equal values and gradients in float64, with another grad_output for each element of the result."""
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = ours(mine, *targets), theirs(other, *targets)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    upstream = torch.arange(expected.numel(), dtype=torch.float64).cos().reshape(expected.shape)
    (a,), (b,) = torch.autograd.grad(got, mine, upstream), torch.autograd.grad(expected, other, upstream)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def drawn(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, (torch.rand(shape, generator=generator) < 0.3).double()


def reduced(values: Tensor, reduction: str) -> Tensor:
    return values if reduction == "none" else getattr(values, reduction)()


class TestTorchvision:
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    @pytest.mark.parametrize("alpha", [-1, 0.25, 1.0])
    def test_definition(self, reduction: str, alpha: float, generator: torch.Generator) -> None:
        def focal(x: Tensor, y: Tensor) -> Tensor:
            p = x.sigmoid()
            p_t = p * y + (1 - p) * (1 - y)
            loss = F.binary_cross_entropy_with_logits(x, y, reduction="none") * (1 - p_t) ** 2
            return reduced(loss if alpha < 0 else (alpha * y + (1 - alpha) * (1 - y)) * loss, reduction)

        x, y = drawn(generator, 3, 4, 5)
        for targets in (y, torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)):
            agree(lambda x, y: torchvision.sigmoid_focal_loss(x, y, alpha, reduction=reduction), focal, x, targets)

    def test_zero_dimensions(self) -> None:
        got = torchvision.sigmoid_focal_loss(torch.tensor(0.0), torch.tensor(1.0))
        assert got.shape == ()
        assert got.item() == pytest.approx(0.25 * 0.25 * 0.6931472)

    def test_bad_reduction(self) -> None:
        with pytest.raises(ValueError, match="reduction: expected one of 'none', 'mean', 'sum'"):
            torchvision.sigmoid_focal_loss(torch.zeros(2), torch.zeros(2), reduction="batchmean")


def published_asl(x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, clip: float | None, detach: bool) -> Tensor:
    p, q = x.sigmoid(), 1 - x.sigmoid()
    if clip:
        q = (q + clip).clamp(max=1)
    cost = y * p.clamp(min=1e-8).log() + (1 - y) * q.clamp(min=1e-8).log()
    # A power's gradient would be NaN at a base of 0, which a clipped negative has.
    base = (1 - p * y - q * (1 - y)).clamp(min=1e-300)
    weight = base ** (gamma_pos * y + gamma_neg * (1 - y))
    return -(cost * (weight.detach() if detach else weight)).sum()


class TestAsymmetric:
    @pytest.mark.parametrize(
        ("module", "detach"),
        [(asl.AsymmetricLoss, True), (asl.AsymmetricLossOptimized, False), (timm.AsymmetricLossMultiLabel, False)],
    )
    def test_definition(self, module: Any, detach: bool, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 9)
        summed = {"reduction": "sum"} if module is timm.AsymmetricLossMultiLabel else {}
        agree(module(**summed), lambda x, y: published_asl(x, y, 4, 1, 0.05, detach), x, y)
        for gamma_neg, gamma_pos, clip, other in itertools.product((0, 2), (0, 1), (0, None, 0.2), (True, False)):
            ours = module(gamma_neg, gamma_pos, clip, 1e-8, other, **summed)
            agree(ours, lambda x, y, a=(gamma_neg, gamma_pos, clip, other): published_asl(x, y, *a), x, y)

    def test_without_eps(self) -> None:
        """A positive far below 0 keeps its gradient with any eps; the original clamps it there."""
        x = torch.tensor([[-30.0]], requires_grad=True)
        for eps in (1e-8, 1e-2):
            (gradient,) = torch.autograd.grad(asl.AsymmetricLoss(eps=eps)(x, torch.ones(1, 1)), x)
            assert gradient.item() == pytest.approx(-1)

    def test_soft_targets_warn_once(self) -> None:
        """The warning is only for targets between 0 and 1, for which the definitions differ."""
        x, loss = torch.zeros(2, 2), asl.AsymmetricLoss()
        loss(x, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        with pytest.warns(UserWarning, match="targets between 0 and 1 give another value .* interpolates the powers"):
            loss(x, torch.full((2, 2), 0.5))
        loss(x, torch.full((2, 2), 0.5))
        with pytest.warns(UserWarning, match="scales the logits"):
            bert4torch.MultilabelCategoricalCrossentropy()(x, torch.full((2, 2), 0.5))


class TestTimm:
    @pytest.mark.parametrize(
        ("options", "factor"),
        [({}, 1 / 6), ({"reduction": "batchmean"}, 1 / 6), ({"reduction": "sum"}, 1), ({"reduction": "mean"}, 1 / 54)],
    )
    @pytest.mark.parametrize("weighed", [False, True])
    def test_asymmetric_reductions(
        self, options: dict[str, Any], factor: float, weighed: bool, generator: torch.Generator
    ) -> None:
        """The default is the mean over rows; weights of labels and of positives apply."""
        x, y = drawn(generator, 6, 9)
        w, q = (torch.rand(9, generator=generator).double() for _ in range(2)) if weighed else (None, None)

        def asymmetric(x: Tensor, y: Tensor) -> Tensor:
            loss = [published_asl(a, b, 4, 1, 0.05, False) for a, b in zip(x.reshape(-1), y.reshape(-1), strict=True)]
            values = torch.stack(loss).reshape(6, 9)
            if weighed:
                values = values * w * (1 + (q - 1) * y)
            return values.sum() * factor

        agree(timm.AsymmetricLossMultiLabel(**options, weight=w, pos_weight=q), asymmetric, x, y)
        if weighed:
            sparse = timm.AsymmetricLossMultiLabel(**options, weight=w, pos_weight=q)(
                x, CSRTargets.from_dense(y.bool())
            )
            torch.testing.assert_close(sparse, asymmetric(x, y))

    def test_asymmetric_smoothing(self, generator: torch.Generator) -> None:
        """Smoothed targets follow the original's definition, without a warning."""
        x, y = drawn(generator, 6, 9)
        q = torch.rand(9, generator=generator).double()

        def smoothed(x: Tensor, y: Tensor) -> Tensor:
            y = y * 0.8 + 0.1
            p = x.sigmoid()
            shifted = (1 - p + 0.05).clamp(max=1)
            weight = (1 - p * y - shifted * (1 - y)) ** (y + 4 * (1 - y))
            return -((q * y * p.log() + (1 - y) * shifted.log()) * weight).sum() / 6

        agree(timm.AsymmetricLossMultiLabel(smoothing=0.2, pos_weight=q), smoothed, x, y)
        with pytest.raises(TypeError, match="target: expected a dense tensor with smoothing"):
            timm.AsymmetricLossMultiLabel(smoothing=0.2)(x, CSRTargets.from_dense(y.bool()))

    def test_zlpr(self, generator: torch.Generator) -> None:
        """Targets of every kind are thresholded at 1/2."""
        x, y = drawn(generator, 6, 9)
        soft = torch.where(y > 0, 0.75, 0.5)
        for targets in (y, soft, y.bool(), y.int(), CSRTargets.from_dense(soft)):
            torch.testing.assert_close(timm.ZlprLoss()(x, targets), zlpr_loss(x, y))

    def test_smooth_dense(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 9)
        expected = F.binary_cross_entropy_with_logits(x, y * 0.8 + 0.1)
        torch.testing.assert_close(timm.BinaryCrossEntropy(0.2, smooth_dense=True)(x, y), expected)
        cut = timm.BinaryCrossEntropy(0.2, 0.5, smooth_dense=True)
        torch.testing.assert_close(cut(x, y), F.binary_cross_entropy_with_logits(x, y))
        with pytest.raises(TypeError, match="target: expected a dense tensor with smoothing"):
            cut(x, CSRTargets.from_dense(y.bool()))

    def test_threshold_of_sparse_targets(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 9)
        soft = torch.where(y > 0, 0.75, 0.25)
        expected = F.binary_cross_entropy_with_logits(x, y)
        torch.testing.assert_close(
            timm.BinaryCrossEntropy(target_threshold=0.5)(x, CSRTargets.from_dense(soft)), expected
        )
        with pytest.raises(ValueError, match="target_threshold: expected in"):
            timm.BinaryCrossEntropy(target_threshold=1.0)(x, CSRTargets.from_dense(y.bool()))

    @pytest.mark.parametrize("options", [{}, {"sum_classes": True}, {"reduction": "sum"}, {"reduction": "none"}])
    @pytest.mark.parametrize("threshold", [None, 0.3])
    def test_bce(self, options: dict[str, Any], threshold: float | None, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 9)
        weight, q = torch.rand(9, generator=generator).double(), torch.rand(9, generator=generator).double()

        def bce(x: Tensor, target: Tensor) -> Tensor:
            if target.dim() == 1:
                target = F.one_hot(target, 9).double() * 0.8 + 0.2 / 9
            if threshold is not None:
                target = (target > threshold).double()
            loss = F.binary_cross_entropy_with_logits(x, target, weight, pos_weight=q, reduction="none")
            return (
                loss.sum(-1).mean() if options.get("sum_classes") else reduced(loss, options.get("reduction", "mean"))
            )

        ours = timm.BinaryCrossEntropy(0.2, threshold, weight=weight, pos_weight=q, **options)
        soft = torch.rand(6, 9, generator=generator, dtype=torch.float64)
        for targets in (y, soft, torch.randint(9, (6,), generator=generator)):
            agree(ours, bce, x, targets)

    def test_options(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 4, 5)
        expected = F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(3.0))
        for q in (3.0, torch.tensor(3.0)):
            torch.testing.assert_close(timm.BinaryCrossEntropy(pos_weight=q)(x, y), expected)
        sparse = CSRTargets.from_dense(y.bool())
        torch.testing.assert_close(timm.BinaryCrossEntropy(pos_weight=3.0)(x, sparse), expected)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="smoothing: expected"):
            timm.BinaryCrossEntropy(1.0)
        with pytest.raises(ValueError, match=r"target: expected the logits' shape \(2, 3\)"):
            timm.BinaryCrossEntropy()(torch.zeros(2, 3), torch.zeros(2, 4))
        with pytest.raises(ValueError, match="target_threshold: expected in"):
            timm.BinaryCrossEntropy(target_threshold=0.95)(torch.zeros(2, 3), torch.tensor([0, 2]))
        with pytest.raises(ValueError, match="col_indices"):
            timm.BinaryCrossEntropy()(torch.zeros(2, 3), torch.tensor([0, 3]))


class TestBert4torch:
    def test_definition(self, generator: torch.Generator) -> None:
        def zlpr(x: Tensor, y: Tensor) -> Tensor:
            zero = torch.zeros_like(x[..., :1])
            inside = torch.cat([torch.where(y > 0, -x, -torch.inf), zero], -1)
            outside = torch.cat([torch.where(y > 0, -torch.inf, x), zero], -1)
            return (inside.logsumexp(-1) + outside.logsumexp(-1)).mean()

        agree(bert4torch.MultilabelCategoricalCrossentropy(), zlpr, *drawn(generator, 3, 2, 7))

    def test_indices(self, generator: torch.Generator) -> None:
        x, _ = drawn(generator, 2, 3, 8)
        indices = torch.rand(2, 3, 7, generator=generator).argsort(-1)[..., :3] + 1
        y = torch.zeros(2, 3, 8).scatter_(-1, indices, 1)
        loss = bert4torch.SparseMultilabelCategoricalCrossentropy()
        agree(lambda x: loss(x, indices), lambda x: zlpr_loss(x, y, reduction="none"), x)
        padded = torch.cat([indices, torch.zeros(2, 3, 2, dtype=torch.int64)], -1)
        masked = bert4torch.SparseMultilabelCategoricalCrossentropy(mask_zero=True)
        agree(lambda x: masked(x, padded), lambda x: zlpr_loss(x[..., 1:], y[..., 1:], reduction="none"), x)

    def test_batch_without_positives(self) -> None:
        loss = bert4torch.SparseMultilabelCategoricalCrossentropy()
        assert loss(torch.zeros(1, 2), torch.zeros(1, 0, dtype=torch.int64)).tolist() == pytest.approx([1.0986123])
        assert loss(torch.zeros(0, 2), torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="y_true: expected indices"):
            bert4torch.SparseMultilabelCategoricalCrossentropy()(torch.zeros(2, 3), torch.zeros(3, 1).long())


SQUARE = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
PAIR = SQUARE[0].repeat(2, 1, 1, 1), torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]], [[[1.0, 0.0], [1.0, 0.0]]]])
CLASSES = (
    torch.tensor([[[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]),
    torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]]]),
)
VOXELS = torch.tensor([[1.0, 1.0], [0.5, 0.0]]).repeat(1, 3, 1, 1), torch.tensor([[[[0, 1], [2, 0]]]])
SMALL = {"sigmoid": True, "smooth_nr": 1e-4, "smooth_dr": 1e-4}
ONE_HOT = {**SMALL, "to_onehot_y": True}
NONE = {"to_onehot_y": True, "reduction": "none"}
# From MONAI 1.5, tests/losses/test_{dice,tversky,focal}_loss.py.
PUBLISHED: list[tuple[Any, dict[str, Any], tuple[Tensor, Tensor], Any]] = [
    (monai.DiceLoss, {"sigmoid": True, "smooth_nr": 1e-6, "smooth_dr": 1e-6}, SQUARE, 0.307576),
    (monai.DiceLoss, SMALL, PAIR, 0.416657),
    (monai.DiceLoss, ONE_HOT, CLASSES, 0.435050),
    (monai.DiceLoss, {**ONE_HOT, **NONE}, CLASSES, [[[0.296529], [0.415136]], [[0.599976], [0.428559]]]),
    (monai.DiceLoss, {"sigmoid": True, "squared_pred": True}, SQUARE, 0.178337),
    (monai.DiceLoss, {"sigmoid": True, "jaccard": True}, SQUARE, 0.470451),
    (monai.TverskyLoss, {"sigmoid": True, "smooth_nr": 1e-6, "smooth_dr": 1e-6}, SQUARE, 0.307576),
    (monai.TverskyLoss, ONE_HOT, CLASSES, 0.435050),
    (monai.TverskyLoss, {"sigmoid": True, "to_onehot_y": True, "batch": True}, CLASSES, 0.422979),
    (monai.TverskyLoss, {**ONE_HOT, "reduction": "sum"}, CLASSES, 1.74013),
    (monai.TverskyLoss, {"sigmoid": True, "alpha": 0.3, "beta": 0.7}, SQUARE, 0.3589),
    (monai.FocalLoss, {"to_onehot_y": True}, VOXELS, 0.34959),
    (monai.FocalLoss, {"to_onehot_y": True, "include_background": False}, VOXELS, 0.36498),
    (monai.FocalLoss, {"to_onehot_y": True, "alpha": 0.8}, VOXELS, 0.08423),
    (
        monai.FocalLoss,
        {**NONE, "weight": torch.tensor([0.5, 0.1, 0.2])},
        VOXELS,
        [
            [
                [[0.01133, 0.35093], [0.18871, 0.08664]],
                [[0.07019, 0.00227], [0.03774, 0.01733]],
                [[0.14037, 0.14037], [0.01352, 0.03466]],
            ]
        ],
    ),
]


class TestMonai:
    @pytest.mark.parametrize(("module", "options", "data", "expected"), PUBLISHED)
    def test_published_values(
        self, module: Any, options: dict[str, Any], data: tuple[Tensor, Tensor], expected: Any
    ) -> None:
        torch.testing.assert_close(module(**options)(*data), torch.tensor(expected), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize(
        ("background", "weight"), [(True, None), (True, 0.5), (True, [1.0, 0.0, 2.0]), (False, [1, 3])]
    )
    def test_dice(self, batch: bool, reduction: str, background: bool, weight: Any, generator: torch.Generator) -> None:
        dim = (0, 2, 3) if batch else (2, 3)

        def dice(kind: str, nr: float, dr: float) -> Callable[[Tensor, Tensor], Tensor]:
            def loss(x: Tensor, y: Tensor) -> Tensor:
                first = 0 if background else 1
                p, y = x[:, first:].sigmoid(), y[:, first:]
                both = (p * y).sum(dim)
                rest = (p * p + y * y if kind == "squared" else p + y).sum(dim) - 2 * both
                score = (2 * both + nr) / (2 * both + (2 if kind == "jaccard" else 1) * rest + dr)
                value = reduced((1 - score) * (1 if weight is None else torch.tensor(weight)), reduction)
                return value[..., None, None] if reduction == "none" else value

            return loss

        x, y = drawn(generator, 2, 3, 4, 5)
        common = {"sigmoid": True, "reduction": reduction, "batch": batch, "include_background": background}
        for kind, (nr, dr) in itertools.product(("linear", "squared", "jaccard"), ((1e-5, 1e-5), (0.0, 0.5))):
            own = {"squared_pred": kind == "squared", "jaccard": kind == "jaccard", "smooth_nr": nr, "smooth_dr": dr}
            agree(monai.DiceLoss(**common, **own, weight=weight), dice(kind, nr, dr), x, y)

    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_tversky(self, batch: bool, reduction: str, generator: torch.Generator) -> None:
        dim = (0, 2) if batch else (2,)

        def tversky(x: Tensor, y: Tensor) -> Tensor:
            p = x.sigmoid()
            both, extra, missed = (p * y).sum(dim), (p * (1 - y)).sum(dim), ((1 - p) * y).sum(dim)
            return reduced(1 - (both + 0.1) / (both + 0.3 * extra + 0.8 * missed + 0.4), reduction)

        options = {"alpha": 0.3, "beta": 0.8, "smooth_nr": 0.1, "smooth_dr": 0.4}
        ours = monai.TverskyLoss(sigmoid=True, reduction=reduction, batch=batch, **options)
        agree(ours, tversky, *drawn(generator, 3, 2, 6))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("weight", [None, 2.0, [1.0, 0.0, 2.0]])
    @pytest.mark.parametrize("spatial", [(), (4,), (4, 5)])
    def test_focal(self, reduction: str, weight: Any, spatial: tuple[int, ...], generator: torch.Generator) -> None:
        def focal(x: Tensor, y: Tensor) -> Tensor:
            z = (2 * y - 1) * x
            loss = (0.3 * y + 0.7 * (1 - y)) * z.neg().sigmoid() ** 2 * -F.logsigmoid(z)
            if weight is not None:
                loss = loss * torch.tensor(weight).expand(3).reshape(3, *[1] * len(spatial))
            if reduction != "sum":
                return reduced(loss, reduction)
            # A mean over no dimensions is torch's mean over all.
            return loss.mean(list(range(2, x.dim()))).sum() if spatial else loss.mean()

        agree(monai.FocalLoss(alpha=0.3, weight=weight, reduction=reduction), focal, *drawn(generator, 2, 3, *spatial))

    def test_one_channel(self, generator: torch.Generator) -> None:
        """Options for several channels are ignored, with the original's warnings."""
        x, y = drawn(generator, 2, 1, 6)
        loss = monai.DiceLoss(sigmoid=True, to_onehot_y=True, include_background=False, weight=[7.0])
        with pytest.warns(UserWarning, match="single channel prediction") as warned:
            got = loss(x, y)
        assert len(warned) == 2
        assert got == monai.DiceLoss(sigmoid=True)(x, y)

    def test_reduction_of_monai_enum(self) -> None:
        assert monai.DiceLoss(sigmoid=True, reduction=SimpleNamespace(value="sum")).reduction == "sum"

    @pytest.mark.parametrize(
        ("module", "options", "match"),
        [
            (monai.DiceLoss, {}, "sigmoid: expected True"),
            (monai.TverskyLoss, {"softmax": True, "sigmoid": True}, "softmax: expected False with sigmoid=True"),
            (monai.DiceLoss, {"other_act": torch.tanh}, "other_act: expected None"),
            (monai.DiceLoss, {"sigmoid": True, "soft_label": True}, "soft_label: expected False"),
            (monai.TverskyLoss, {"sigmoid": True, "soft_label": True}, "soft_label: expected False"),
            (monai.DiceLoss, {"sigmoid": True, "smooth_dr": 0.0}, "smooth_dr: expected"),
            (monai.TverskyLoss, {"sigmoid": True, "smooth_nr": 0.0, "alpha": 0.0}, "alpha: expected"),
            (monai.DiceLoss, {"sigmoid": True, "reduction": "batchmean"}, "reduction: expected one of"),
            (monai.GeneralizedDiceLoss, {"sigmoid": True, "w_type": "cube"}, "w_type: expected one of"),
            (monai.GeneralizedDiceLoss, {"sigmoid": True, "soft_label": True}, "soft_label: expected False"),
            (monai.DiceCELoss, {"sigmoid": True, "reduction": "none"}, "reduction: expected one of"),
            (monai.DiceFocalLoss, {"sigmoid": True, "lambda_focal": -1.0}, "lambda_focal: expected"),
        ],
    )
    def test_unsupported_options_raise(self, module: Any, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            module(**options)

    def test_focal_of_one_class(self) -> None:
        """A number is taken as weight; a list of weights is an error."""
        x, y = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        assert monai.FocalLoss(weight=0.5)(x, y).item() == pytest.approx(0.0866434)
        with pytest.raises(ValueError, match="weight: expected a number for a single channel"):
            monai.FocalLoss(weight=[0.5])(x, y)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_softmax_as_sigmoids(self, dtype: torch.dtype, generator: torch.Generator) -> None:
        """The log-odds are precise at both ends: their error is a few roundings of the largest logit."""
        x = (40 * torch.randn(50, 5, generator=generator, dtype=torch.float64)).to(dtype)
        x[0], x[1, 1:] = 2.0, x[1, :1]
        others = ~torch.eye(5, dtype=torch.bool)
        exact = x.double()
        exact = exact - torch.stack([exact.masked_fill(~others[i], -torch.inf).logsumexp(1) for i in range(5)], 1)
        error = (softmax_log_odds(x).double() - exact).abs()
        assert (error <= 4 * torch.finfo(dtype).eps * x.abs().amax(1, keepdim=True).double()).all()
        p = softmax_log_odds(x).double().sigmoid()
        torch.testing.assert_close(p, x.double().softmax(1), rtol=200 * torch.finfo(dtype).eps, atol=0)

    @pytest.mark.parametrize("module", [monai.DiceLoss, monai.TverskyLoss, monai.GeneralizedDiceLoss])
    @pytest.mark.parametrize("background", [True, False])
    def test_softmax(self, module: Any, background: bool, generator: torch.Generator) -> None:
        """The loss equals that of the softmax probabilities' logits."""
        x, y = drawn(generator, 2, 4, 6)
        loss = module(softmax=True, include_background=background)
        plain = module(sigmoid=True, include_background=background)
        agree(loss, lambda x, y: plain(x.softmax(1).logit(), y), x, y)

    @pytest.mark.parametrize("alpha", [None, 0.3, [0.2, 0.5, 1.5]])
    @pytest.mark.parametrize("background", [True, False])
    def test_focal_of_softmax(self, alpha: Any, background: bool, generator: torch.Generator) -> None:
        channels = 3 if background else 4
        x, y = drawn(generator, 2, channels, 6)

        def focal(x: Tensor, y: Tensor) -> Tensor:
            x, y = (x, y) if background else (x[:, 1:], y[:, 1:])
            log_p = x.log_softmax(1)
            loss = -((1 - log_p.exp()) ** 2) * log_p * y
            factor = torch.tensor(alpha if isinstance(alpha, list) else [1.0] * 3).double()
            if isinstance(alpha, float) and background:
                factor = torch.tensor([0.7, 0.3, 0.3]).double()
            return (loss * factor[:, None]).mean()

        loss = monai.FocalLoss(use_softmax=True, alpha=alpha, include_background=background)
        warns = pytest.warns(UserWarning, match="scalar `alpha` ignored")
        with warns if isinstance(alpha, float) and not background else nullcontext():
            agree(loss, focal, x, y)

    def test_focal_alpha_of_classes(self, generator: torch.Generator) -> None:
        """An alpha for each class weights positives, and not negatives."""
        x, y = drawn(generator, 2, 3, 6)
        alpha = torch.tensor([0.2, 0.5, 1.5]).double()

        def focal(x: Tensor, y: Tensor) -> Tensor:
            z = (2 * y - 1) * x
            return (torch.where(y == 1, alpha[:, None], 1.0) * z.neg().sigmoid() ** 2 * -F.logsigmoid(z)).mean()

        agree(monai.FocalLoss(alpha=alpha.tolist()), focal, x, y)

    @pytest.mark.parametrize("ignored", [0, 2, 255, -1])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_ignored_classes(self, ignored: int, reduction: str, generator: torch.Generator) -> None:
        """Voxels of the ignored class, or with an ignored number that is no class, do not affect the loss."""
        x, _ = drawn(generator, 2, 3, 8)
        classes = torch.randint(3, (2, 1, 8), generator=generator)
        classes[:, :, [1, 5]] = ignored
        hot = (classes == torch.arange(3)[:, None]).double()
        kept = classes != ignored
        common = {"to_onehot_y": True, "ignore_index": ignored, "reduction": reduction}
        for module in (monai.DiceLoss, monai.TverskyLoss):
            plain = module(sigmoid=True, reduction="none")

            def overlap(x: Tensor, y: Tensor, plain: Any = plain) -> Tensor:
                each = [plain(a[None][:, :, k[0]], b[None][:, :, k[0]]) for a, b, k in zip(x, y, kept, strict=True)]
                return reduced(torch.cat(each), reduction)

            ours = module(sigmoid=True, **common)
            agree(lambda x, y, ours=ours: ours(x, classes), overlap, x, hot)

        def focal(x: Tensor, y: Tensor) -> Tensor:
            values = monai.FocalLoss(reduction="none")(x, y) * kept
            if reduction == "none":
                return values
            # The mean is over voxels, after a sum over their channels.
            return values.sum() / kept.sum() if reduction == "mean" else (values.sum(2) / kept.sum(2)).sum()

        loss = monai.FocalLoss(**common)
        got = loss(x.float(), classes)
        torch.testing.assert_close(got, focal(x.float(), hot.float()), rtol=1e-5, atol=1e-6)
        by_channels = monai.FocalLoss(ignore_index=ignored, reduction=reduction)
        torch.testing.assert_close(by_channels(x.float(), hot), got)

    @pytest.mark.parametrize("module", [monai.DiceLoss, monai.TverskyLoss, monai.FocalLoss])
    def test_class_numbers_are_checked(self, module: Any) -> None:
        """A class number out of range and a target that is already one-hot raise."""
        loss = module(to_onehot_y=True, **({} if module is monai.FocalLoss else {"sigmoid": True}))
        x = torch.zeros(2, 3, 4)
        for wrong in (255, -1, 3):
            y = torch.zeros(2, 1, 4, dtype=torch.int64)
            y[1, 0, 2] = wrong
            with pytest.raises(ValueError, match=f"target: expected classes 0 to 2 .* got {wrong}"):
                loss(x, y)
        with pytest.raises(ValueError, match="target: expected class numbers .* which has channels already"):
            loss(x, torch.zeros(2, 3, 4))

    @pytest.mark.parametrize("ignored", [None, 255])
    def test_class_numbers_that_cannot_be_checked(self, ignored: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the host cannot read them, as on a GPU, class numbers out of range and not ignored make the loss NaN."""
        monkeypatch.setattr(_monai_inputs.check, "readable", lambda tensor: False)
        x, y = torch.zeros(2, 3, 4), torch.zeros(2, 1, 4, dtype=torch.int64)
        for loss in (
            monai.FocalLoss(to_onehot_y=True, ignore_index=ignored),
            monai.DiceLoss(sigmoid=True, to_onehot_y=True, ignore_index=ignored),
        ):
            assert loss(x, y).isfinite()
            for wrong in (255, -1, 3):
                assert loss(x, y.masked_fill(y.new_tensor([0, 1, 0, 0]).bool(), wrong)).isnan() == (wrong != ignored)

    @pytest.mark.parametrize("jaccard", [False, True])
    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_sums(self, jaccard: bool, batch: bool, reduction: str, generator: torch.Generator) -> None:
        """A sum of two losses, which takes one pass or two, equals the two losses added up."""
        dice = {"sigmoid": True, "jaccard": jaccard, "batch": batch, "reduction": reduction}
        for smooth_dr in (1e-5, 0.5):
            options = {**dice, "smooth_dr": smooth_dr}
            x, y = drawn(generator, 2, 3, 4, 5)
            weight = [1.0, 0.5, 2.0]
            parts = monai.DiceLoss(**options, weight=weight), monai.FocalLoss(weight=weight, reduction=reduction)
            ours = monai.DiceFocalLoss(**options, weight=weight, lambda_dice=0.3, lambda_focal=2.0)
            agree(ours, lambda x, y, p=parts: 0.3 * p[0](x, y) + 2.0 * p[1](x, y), x, y)
            w = torch.tensor(weight).double()
            ce = nn.CrossEntropyLoss(weight=w, reduction=reduction)
            ours = monai.DiceCELoss(**options, weight=w, lambda_dice=0.3, lambda_ce=2.0)
            agree(ours, lambda x, y, p=parts, ce=ce: 0.3 * p[0](x, y) + 2.0 * ce(x, y), x, y)
            x, y = x[:, :1], y[:, :1]
            q = torch.tensor([1.5]).double()
            parts = monai.DiceLoss(**options), nn.BCEWithLogitsLoss(pos_weight=q, reduction=reduction)
            ours = monai.DiceCELoss(**options, weight=q, lambda_dice=0.3, lambda_ce=2.0)
            agree(ours, lambda x, y, p=parts: 0.3 * p[0](x, y) + 2.0 * p[1](x, y), x, y)
            parts = monai.DiceLoss(**options), monai.FocalLoss(weight=0.5, reduction=reduction)
            agree(monai.DiceFocalLoss(**options, weight=0.5), lambda x, y, p=parts: p[0](x, y) + p[1](x, y), x, y)

    @pytest.mark.parametrize("w_type", ["square", "simple", "uniform"])
    @pytest.mark.parametrize("batch", [False, True])
    def test_generalized_dice(self, w_type: str, batch: bool, generator: torch.Generator) -> None:
        x, y = drawn(generator, 2, 3, 9)
        y[:, 2] = 0

        def generalized(x: Tensor, y: Tensor) -> Tensor:
            p, dim = x.sigmoid(), (0, 2) if batch else (2,)
            both, sizes, true = (p * y).sum(dim), (p + y).sum(dim), y.sum(dim)
            weight = {"square": 1 / true**2, "simple": 1 / true, "uniform": torch.ones_like(true)}[w_type]
            weight = torch.where(weight.isinf(), -1.0, weight)
            weight = torch.where(weight < 0, weight.amax(-1, keepdim=True), weight)
            return (1 - (2 * (both * weight).sum(-1) + 0.1) / ((sizes * weight).sum(-1) + 0.4)).sum()

        options = {"sigmoid": True, "w_type": w_type, "batch": batch, "smooth_nr": 0.1, "smooth_dr": 0.4}
        agree(monai.GeneralizedDiceLoss(**options, reduction="sum"), generalized, x, y)
        shape = (1, 1) if batch else (2, 1, 1)
        assert monai.GeneralizedDiceLoss(**options, reduction="none")(x, y).shape == shape

    def test_bad_shapes(self) -> None:
        loss = monai.DiceLoss(sigmoid=True, weight=[1.0, 2.0])
        for x, y, match in (
            (torch.zeros(2, 3), torch.zeros(2, 3), "input: expected at least 3 dimensions"),
            (torch.zeros(2, 3, 4), torch.zeros(2, 1, 4), "target: expected shape"),
            (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), "weight: expected a number or one for each of 3"),
        ):
            with pytest.raises(ValueError, match=match):
                loss(x, y)


class TestHuggingFace:
    """A step of several batches gives the gradient of one batch of all their rows."""

    @pytest.mark.parametrize(
        "loss",
        [
            ZLPRLoss(),
            ZLPRLoss(reduction="batchmean"),
            BCEWithLogitsLoss(),
            SigmoidFocalLoss(reduction="batchmean"),
            DiceLoss(),
            nn.BCEWithLogitsLoss(),
        ],
        ids=repr,
    )
    def test_accumulation(self, loss: Any, generator: torch.Generator) -> None:
        x, y = drawn(generator, 7, 5)
        whole, parts = x.clone().requires_grad_(), x.clone().requires_grad_()
        loss(whole, y).backward()
        compute_loss, total = hf_compute_loss(loss), 0.0
        items = sum(labels.ne(-100).sum() for labels in y.split([3, 3, 1]))
        for rows in torch.arange(7).split([3, 3, 1]):
            value = compute_loss({"logits": parts[rows]}, y[rows], num_items_in_batch=items)
            value *= 1  # the Trainer multiplies by the number of devices
            value.backward()
            total += value.item()
        torch.testing.assert_close(parts.grad, whole.grad)
        assert total == pytest.approx(loss(x, y).item())

    @pytest.mark.parametrize("unknown", [-100, -1])
    def test_unknown_labels(self, unknown: int, generator: torch.Generator) -> None:
        """The Trainer does not count -100; nevertheless a step of one batch has the loss of that batch."""
        x, y = drawn(generator, 6, 5)
        y[0, 1:] = y[2, 2] = y[4] = unknown
        count = y.ne(-100).sum()
        for loss in (BCEWithLogitsLoss(ignore_index=unknown), DiceLoss(ignore_index=unknown)):
            torch.testing.assert_close(hf_compute_loss(loss)({"logits": x}, y, count), loss(x, y))
        loss = ZLPRLoss(ignore_index=unknown)
        parts = [(x[rows], y[rows]) for rows in (slice(0, 4), slice(4, 6))]
        got = sum(hf_compute_loss(loss)((a,), b, count) for a, b in parts)
        shares = [
            b.ne(-100).sum() / count for _, b in parts
        ]  # the batches' shares of the labels that the Trainer counts
        torch.testing.assert_close(got, sum(share * loss(a, b) for share, (a, b) in zip(shares, parts, strict=True)))
        if unknown == -1:
            torch.testing.assert_close(got, loss(x, y))

    def test_no_known_labels(self) -> None:
        x, y = torch.zeros(2, 3), torch.full((2, 3), -100.0)
        assert hf_compute_loss(ZLPRLoss(ignore_index=-100))({"logits": x}, y, y.ne(-100).sum()).isfinite()

    @pytest.mark.parametrize("average", ["macro", "micro"])
    def test_groups_that_cross_rows(self, average: str, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 4)
        loss = DiceLoss(average=average)
        got = sum(hf_compute_loss(loss)((x[r],), y[r], 24) for r in (slice(0, 4), slice(4, 6)))
        torch.testing.assert_close(got, loss(x[:4], y[:4]) * 4 / 6 + loss(x[4:], y[4:]) * 2 / 6)

    def test_torch_sparse_labels(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 6, 4)
        compute_loss = hf_compute_loss(ZLPRLoss())
        torch.testing.assert_close(compute_loss((x,), y.to_sparse_csr(), 30), compute_loss((x,), y, 30))

    def test_sparse_labels(self, generator: torch.Generator) -> None:
        """The Trainer counts sparse labels like dense ones."""
        x, y = drawn(generator, 5, 5)
        sparse = CSRTargets.from_dense(y.bool())
        compute_loss, wanted = hf_compute_loss(ZLPRLoss()), zlpr_loss(x, y)
        torch.testing.assert_close(compute_loss({"logits": x}, sparse), wanted)
        torch.testing.assert_close(compute_loss({"logits": x}, sparse, sparse.ne(-100).sum()), wanted)
        parts = [slice(0, 3), slice(3, 5)]
        count = sum(sparse[rows].ne(-100).sum() for rows in parts)
        got = sum(compute_loss({"logits": x[rows]}, sparse[rows], count) for rows in parts)
        torch.testing.assert_close(got, wanted)

    def test_outputs_and_counts(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 3, 5)
        compute_loss, wanted = hf_compute_loss(ZLPRLoss()), zlpr_loss(x, y)
        for outputs in ({"logits": x}, SimpleNamespace(logits=x), (x, None), [x], x):
            torch.testing.assert_close(compute_loss(outputs, y), wanted)
        torch.testing.assert_close(hf_compute_loss(ZLPRLoss(), logits="scores")({"scores": x}, y), wanted)
        for count in (15, 15.0, torch.tensor(15), torch.tensor(15.0), torch.full((2, 1), 15)):
            torch.testing.assert_close(compute_loss((x,), y, num_items_in_batch=count), wanted)

    def test_sum_is_not_rescaled(self, generator: torch.Generator) -> None:
        x, y = drawn(generator, 3, 5)
        loss = ZLPRLoss(reduction="sum", normalizer=2.0)
        torch.testing.assert_close(hf_compute_loss(loss)((x,), y, 15), loss(x, y))

    def test_bad_input(self) -> None:
        with pytest.raises(TypeError, match="loss: expected a loss module"):
            hf_compute_loss("zlpr")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="loss: expected a reduction"):
            hf_compute_loss(ZLPRLoss(reduction="none"))
        with pytest.raises(ValueError, match="outputs: expected a tensor named 'logits'"):
            hf_compute_loss(ZLPRLoss())({"scores": torch.zeros(1, 2)}, torch.zeros(1, 2))


def test_generalized_dice_of_many_half_precision_positives() -> None:
    """A channel has more positives than float16 can count."""
    logits, ones = torch.zeros(1, 1, 300, 300), torch.ones(1, 1, 300, 300)
    loss = monai.GeneralizedDiceLoss(sigmoid=True)
    assert loss(logits, ones) > 0.2
    torch.testing.assert_close(loss(logits, ones.half()), loss(logits, ones))


@pytest.mark.parametrize("batch", (False, True))
def test_monai_without_items(batch: bool) -> None:
    """An empty batch has a loss, whose gradient is empty, and no error."""
    for loss in (
        monai.DiceLoss(sigmoid=True, batch=batch),
        monai.TverskyLoss(sigmoid=True, batch=batch),
        monai.GeneralizedDiceLoss(sigmoid=True, batch=batch),
        monai.DiceFocalLoss(sigmoid=True, batch=batch),
        monai.DiceCELoss(sigmoid=True, batch=batch),
        monai.FocalLoss(),
    ):
        logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits, torch.zeros(0, 3, 4, 4)), logits)
        assert gradient.shape == logits.shape


def test_timm_pos_weight_of_sparse_targets_with_leading_dimensions(generator: torch.Generator) -> None:
    x, y = torch.randn((2, 3, 7), generator=generator), random_positives(generator, (2, 3, 7))
    loss = timm.AsymmetricLossMultiLabel(pos_weight=2.0)
    torch.testing.assert_close(loss(x, CSRTargets.from_dense(y)), loss(x, y))
