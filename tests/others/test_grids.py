"""Diagonals of grids of options of other packages' losses, compared with ours of the same meaning.

Each setting is compared in value and gradient: in float64, where the two are equal, and in float32, where ours is at
least about as accurate. The last test has the documented differences.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import (
    bce_with_logits_loss,
    dice_loss,
    jaccard_loss,
    sigmoid_focal_loss,
    tversky_loss,
)
from mlloss_cuda.compat import asl, bert4torch, monai, timm, torchvision
from mlloss_cuda.compat._monai_inputs import softmax_log_odds

from . import restated
from .grid import SCALES, Compared, diagonal, drawn
from .packages import bert4torch_losses, kornia_losses, monai_losses, smp_losses, timm_losses, torchvision_ops
from .tally import Tally

GAMMAS = (0.0, 1.0, 2.0, 3.5)
REDUCTIONS = ("mean", "sum", "none")


def test_torchvision(tally: Tally) -> None:
    same = Compared(tally, "torchvision")
    axes = {"alpha": (-1, 0.25, 0.9), "gamma": GAMMAS, "reduction": REDUCTIONS}
    for seed, options in enumerate(diagonal(36, **axes, scale=SCALES, soft=(False, True))):
        x, y = drawn(seed, (5, 8), options.pop("scale"))
        targets = torch.where(y, 0.75, 0.125) if options.pop("soft") else y
        same.losses(
            lambda x, y, o=options: torchvision.sigmoid_focal_loss(x, y, **o),
            lambda x, y, o=options: torchvision_ops.sigmoid_focal_loss(x, y, **o),
            x,
            targets,
        )


def weights(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.25


def test_timm_asymmetric(tally: Tally) -> None:
    """The logits stay within timm's eps, below which its loss has no gradient."""
    same = Compared(tally, "timm")
    axes = {
        "gamma_neg": (4.0, 2.0, 0.0),
        "gamma_pos": (1.0, 0.0),
        "clip": (0.05, None, 0.0, 0.3),
        "disable_torch_grad_focal_loss": (False, True),
        "smoothing": (0.0, 0.1),
        "reduction": ("batchmean", "sum", "mean", "none"),
        "weight": (None, weights(1, 8)),
        "pos_weight": (None, 2.0, weights(2, 8)),
    }
    for seed, options in enumerate(diagonal(48, **axes)):
        x, y = drawn(seed, (5, 8), 2.0)
        module = "AsymmetricLossMultiLabel"
        same.losses(getattr(timm, module)(**options), getattr(timm_losses, module)(**options), x.clamp(-8, 8), y)


def test_timm_bce(tally: Tally) -> None:
    same = Compared(tally, "timm")
    axes = {
        "smoothing": (0.1, 0.0, 0.3),
        "target_threshold": (None, 0.4),
        "weight": (None, weights(1, 8)),
        "reduction": REDUCTIONS,
        "sum_classes": (False, True),
        "pos_weight": (None, 2.0, weights(2, 8)),
        "smooth_dense": (False, True),
    }
    for seed, options in enumerate(diagonal(36, **axes, scale=SCALES, classes=(False, True, False))):
        x, y = drawn(seed, (5, 8), options.pop("scale"))
        targets = y.int().argmax(1) if options.pop("classes") else y
        # timm's result has the weights' dtype, float64.
        same.losses(timm.BinaryCrossEntropy(**options), timm_losses.BinaryCrossEntropy(**options), x, targets)


def test_timm_zlpr(tally: Tally) -> None:
    same = Compared(tally, "timm")
    for seed, options in enumerate(diagonal(6, scale=SCALES, soft=(False, True))):
        x, y = drawn(seed, (5, 8), options["scale"])
        targets = torch.where(y, 0.75, 0.25) if options["soft"] else y
        same.losses(timm.ZlprLoss(), timm_losses.ZlprLoss(), x, targets)


MONAI_COMMON: dict[str, tuple[Any, ...]] = {
    "include_background": (True, False),
    "reduction": REDUCTIONS,
    "batch": (False, True),
    "smooth_nr": (1e-5, 0.1, 0.0),
    "smooth_dr": (0.5, 0.1),
    "softmax": (False, True, False),
}


def monai_settings(count: int, seed: int, channels: int = 3, **axes: Any) -> Any:
    """Yield options with logits and targets, by channels or class numbers."""
    chosen = diagonal(count, **axes, scale=SCALES, numbers=(False, True, False))
    for i, options in enumerate(chosen, seed):
        x, y = drawn(i, (2, channels, 4, 5), options.pop("scale"))
        # MONAI turns class numbers into float32, whose sums of squares are inexact.
        if options.pop("numbers") and not options.get("squared_pred"):
            options["to_onehot_y"] = True
            y = y.int().argmax(1, keepdim=True)
            y[:, 0, 0, :channels] = torch.arange(channels)  # every class occurs
        if "softmax" in options:
            options["sigmoid"] = not options["softmax"]
        yield options, x, y


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        (
            "DiceLoss",
            {
                **MONAI_COMMON,
                "squared_pred": (False, True),
                "jaccard": (False, False, True),
                "weight": (None, 0.5),
                "ignore_index": (None, 1, -1),
            },
        ),
        ("TverskyLoss", {**MONAI_COMMON, "alpha": (0.5, 0.3), "beta": (0.5, 0.7, 0.1), "ignore_index": (None, 1, 9)}),
        ("GeneralizedDiceLoss", {**MONAI_COMMON, "w_type": ("square", "simple", "uniform")}),
        (
            "DiceCELoss",
            {
                **MONAI_COMMON,
                "reduction": ("mean", "sum"),
                "jaccard": (False, True),
                "lambda_ce": (1.0, 0.3),
                "label_smoothing": (0.0, 0.1),
            },
        ),
        ("DiceFocalLoss", {**MONAI_COMMON, "gamma": GAMMAS, "alpha": (None, 0.3), "lambda_dice": (1.0, 0.3)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_monai_overlap_losses(name: str, axes: dict[str, Any], tally: Tally) -> None:
    same = Compared(tally, "monai")
    for options, x, y in monai_settings(36, 0, **axes):
        same.losses(getattr(monai, name)(**options), getattr(monai_losses, name)(**options), x, y)


def test_monai_one_channel(tally: Tally) -> None:
    same = Compared(tally, "monai")
    axes = {"reduction": ("mean", "sum"), "batch": (False, True), "smooth_dr": (1e-5, 0.1), "jaccard": (False, True)}
    for seed, options in enumerate(diagonal(8, **axes, scale=SCALES)):
        x, y = drawn(seed, (2, 1, 4, 5), options.pop("scale"))
        options["sigmoid"] = True
        q = weights(seed, 1)
        for name, weight in (("DiceLoss", 0.5), ("DiceCELoss", q), ("DiceCELoss", None), ("DiceFocalLoss", 0.5)):
            own = {**options, "weight": weight}
            same.losses(getattr(monai, name)(**own), getattr(monai_losses, name)(**own), x, y)


@pytest.mark.filterwarnings("ignore:.*scalar `alpha` ignored:UserWarning")
def test_monai_focal(tally: Tally) -> None:
    same = Compared(tally, "monai")
    axes = {
        "include_background": (True, False),
        "gamma": GAMMAS,
        "alpha": (None, 0.3, "each"),
        "weight": (None, 0.5, "each"),
        "reduction": REDUCTIONS,
        "use_softmax": (False, True),
        "ignore_index": (None, 1, -1),
    }
    for options, x, y in monai_settings(48, 100, **axes):
        for name in ("alpha", "weight"):
            if options[name] == "each":
                options[name] = [0.25, 1.5, 0.75][0 if options["include_background"] else 1 :]
        same.losses(monai.FocalLoss(**options), monai_losses.FocalLoss(**options), x, y)


def test_asl(tally: Tally) -> None:
    """ASL is compared with its formula, because it is not a package."""
    same = Compared(tally, "ASL")
    axes = {"gamma_neg": (4.0, 2.0, 0.0), "gamma_pos": (1.0, 0.0), "clip": (0.05, None, 0.3), "detach": (True, False)}
    for seed, options in enumerate(diagonal(18, **axes)):
        x, y = drawn(seed, (5, 8), 2.0)
        given = (options["gamma_neg"], options["gamma_pos"], options["clip"], 1e-8)
        module = asl.AsymmetricLoss if options["detach"] else asl.AsymmetricLossOptimized
        theirs = lambda x, y, a=(*given, options["detach"]): restated.asymmetric(x, y, *a)  # noqa: E731
        same.losses(module(*given), theirs, x.clamp(-8, 8), y)


def test_bert4torch(tally: Tally) -> None:
    """bert4torch's sparse loss clamps a difference at epsilon: the smaller it is, the more exact the loss."""
    same = Compared(tally, "bert4torch")
    for seed, scale in enumerate(SCALES):
        x, y = drawn(seed, (2, 5, 8), scale)
        name = "MultilabelCategoricalCrossentropy"
        same.losses(getattr(bert4torch, name)(), getattr(bert4torch_losses, name)(), x, y)
        for mask_zero in (False, True):
            indices = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(seed)).argsort(-1)[..., :3] + 1
            if mask_zero:
                indices[..., 2] = 0
            given = {"mask_zero": mask_zero, "epsilon": 1e-15}
            name = "SparseMultilabelCategoricalCrossentropy"
            same.losses(
                lambda x, y, n=name, g=given, i=indices: getattr(bert4torch, n)(**g)(x, i),
                lambda x, y, n=name, g=given, i=indices: getattr(bert4torch_losses, n)(**g)(x, i),
                x.clamp(-6, 6),
                y,
            )


def channels_last(x: Tensor) -> Tensor:
    """Reshape ``[N, C, *spatial]`` into rows of C labels."""
    return x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])


def test_kornia_focal(tally: Tally) -> None:
    same = Compared(tally, "kornia")
    axes = {"alpha": (0.25, None, 0.9), "gamma": GAMMAS, "reduction": ("mean", "sum"), "weight": (None, "each")}
    for seed, options in enumerate(diagonal(24, **axes, scale=SCALES, ignored=(False, True))):
        x, y = drawn(seed, (2, 3, 4, 5), options.pop("scale"))
        targets = y.float()
        if options.pop("ignored"):
            targets[:, :, 1] = -100
        w = None if options.pop("weight") is None else weights(seed, 3)
        same.losses(
            lambda x, y, o=options, w=w: sigmoid_focal_loss(
                channels_last(x), channels_last(y), ignore_index=-100, weight=w, **o
            ),
            lambda x, y, o=options, w=w: kornia_losses.binary_focal_loss_with_logits(
                x, y, weight=None if w is None else w.to(x.dtype), **o
            ),
            x,
            targets,
        )


def test_kornia_overlap(tally: Tally) -> None:
    """kornia's losses take a softmax and class numbers; ours take the softmax's log-odds."""
    same = Compared(tally, "kornia")
    for seed, options in enumerate(diagonal(12, kind=("micro", "macro", "tversky"), beta=(0.7, 0.2), scale=SCALES)):
        x, y = drawn(seed, (2, 3, 4, 5), options["scale"])
        classes = y.int().argmax(1)
        classes[:, 0, :3] = torch.arange(3)
        hot = torch.nn.functional.one_hot(classes, 3).movedim(3, 1).bool()

        def ours(x: Tensor, _: Tensor, hot: Tensor = hot, o: dict[str, Any] = options) -> Tensor:
            s = softmax_log_odds(x)
            if o["kind"] == "micro":
                return dice_loss(s.flatten(1), hot.flatten(1), smooth=0.0)
            s, y = s.reshape(6, -1), hot.reshape(6, -1)
            if o["kind"] == "macro":
                return dice_loss(s, y, smooth=0.0)
            return tversky_loss(s, y, alpha=0.3, beta=o["beta"], smooth=0.0)

        def theirs(x: Tensor, _: Tensor, classes: Tensor = classes, o: dict[str, Any] = options) -> Tensor:
            if o["kind"] == "tversky":
                return kornia_losses.tversky_loss(x, classes, alpha=0.3, beta=o["beta"], eps=0.0)
            return kornia_losses.dice_loss(x, classes, average=o["kind"], eps=0.0)

        same.losses(ours, theirs, x, classes)


def test_smp_elements(tally: Tally) -> None:
    """The package subtracts p_t from 1, which loses digits of nearly certain predictions in float32."""
    same = Compared(tally, "segmentation_models_pytorch")
    axes = {"alpha": (None, 0.25, 0.9), "gamma": GAMMAS, "mode": ("multilabel", "binary")}
    for seed, options in enumerate(diagonal(24, **axes, scale=SCALES, ignored=(False, True))):
        binary = options["mode"] == "binary"
        x, y = drawn(seed, (2, 1 if binary else 3, 4, 5), options.pop("scale"))
        targets, ignore = y.float(), None
        if binary and options.pop("ignored"):
            targets[:, :, 1], ignore = -1, -1
        options.pop("ignored", None)
        kept = (targets >= 0).sum().item()
        own = {"alpha": options["alpha"], "gamma": options["gamma"], "ignore_index": -1}
        same.losses(
            lambda x, y, o=own, n=kept: sigmoid_focal_loss(
                channels_last(x), channels_last(y), reduction="sum", normalizer=n, **o
            ),
            smp_losses.FocalLoss(**options, ignore_index=ignore),
            x,
            targets,
        )
    for seed, options in enumerate(diagonal(6, smooth_factor=(None, 0.1), reduction=("mean", "sum"), scale=SCALES)):
        x, y = drawn(seed, (2, 3, 4, 5), options.pop("scale"))
        e = options["smooth_factor"] or 0.0
        same.losses(
            lambda x, y, e=e, r=options["reduction"]: bce_with_logits_loss(
                channels_last(x), channels_last(y * (1 - 2 * e) + e), reduction=r
            ),
            smp_losses.SoftBCEWithLogitsLoss(**options),
            x,
            y,
        )


def test_smp_overlap(tally: Tally) -> None:
    """A group is a channel over the batch. Their smoothing of Dice adds to the overlap, ours to twice the overlap."""
    same = Compared(tally, "segmentation_models_pytorch")
    axes = {"kind": ("Dice", "Jaccard", "Tversky"), "smooth": (0.5, 0.0), "log_loss": (False, True)}
    for seed, options in enumerate(diagonal(24, **axes, mode=("multilabel", "binary"), scale=SCALES)):
        kind, scale = options.pop("kind"), options.pop("scale")
        x, y = drawn(seed, (2, 1 if options["mode"] == "binary" else 3, 4, 5), scale)
        log = options["log_loss"] and kind == "Dice"
        options["log_loss"] = log
        smooth = options["smooth"]
        extra = {"alpha": 0.3, "beta": 0.7} if kind == "Tversky" else {}

        def ours(x: Tensor, y: Tensor, kind: str = kind, c: float = smooth, log: bool = log) -> Tensor:
            x, y = channels_last(x), channels_last(y)
            if kind == "Dice":
                return dice_loss(x, y, smooth=2 * c, log=log, average="macro")
            if kind == "Jaccard":
                return jaccard_loss(x, y, smooth=c, average="macro")
            return tversky_loss(x, y, alpha=0.3, beta=0.7, smooth=c, average="macro")

        same.losses(ours, getattr(smp_losses, f"{kind}Loss")(**options, **extra), x, y)


def documented(tally: Tally, package: str, ours: Any, theirs: Any, choice: str) -> None:
    """Count a documented difference, which must be larger than roundings."""
    tally.documented(package, abs(float(ours) - float(theirs)) > 1e-4 * abs(float(ours)), choice)


@pytest.mark.filterwarnings("ignore:targets between 0 and 1:UserWarning")
def test_documented_differences(tally: Tally) -> None:
    x, y = torch.tensor([[[0.5, -1.0], [2.0, -0.5]]]), torch.full((1, 2, 2), 0.3)
    focal = monai_losses.FocalLoss()(x, y)
    documented(
        tally, "monai", monai.FocalLoss()(x, y), focal, "focal loss between 0 and 1: torchvision's chance of a miss"
    )
    focal = kornia_losses.binary_focal_loss_with_logits(x, y, reduction="mean")
    documented(tally, "kornia", sigmoid_focal_loss(x, y), focal, "focal loss between 0 and 1")
    focal = smp_losses.FocalLoss("multilabel", alpha=0.25)(x[..., None], y[..., None])
    documented(tally, "segmentation_models_pytorch", sigmoid_focal_loss(x, y), focal, "focal loss between 0 and 1")
    x, y = x[0], y[0]
    theirs = timm_losses.AsymmetricLossMultiLabel()(x, y)
    documented(tally, "timm", timm.AsymmetricLossMultiLabel()(x, y), theirs, "asymmetric loss between 0 and 1")
    theirs = bert4torch_losses.MultilabelCategoricalCrossentropy()(x, y)
    documented(tally, "bert4torch", bert4torch.MultilabelCategoricalCrossentropy()(x, y), theirs, "soft ZLPR")
    far = torch.tensor([[-30.0]], requires_grad=True)
    (none,) = torch.autograd.grad(timm_losses.AsymmetricLossMultiLabel()(far, torch.ones(1, 1)), far)
    (own,) = torch.autograd.grad(timm.AsymmetricLossMultiLabel()(far, torch.ones(1, 1)), far)
    learns = abs(none.item()) < 1e-9 and own.item() == pytest.approx(-1)
    tally.documented("timm", learns, "there is no eps, below which a positive would learn nothing")
    # Without positives, the package counts a group as 0.
    x, y = drawn(3, (2, 3, 4, 5), 1.0)
    y[:, 1] = False
    theirs = smp_losses.DiceLoss("multilabel")(x, y)
    ours = dice_loss(channels_last(x), channels_last(y), smooth=0.0, average="macro")
    documented(
        tally, "segmentation_models_pytorch", ours, theirs, "a label without positives costs what it is predicted"
    )
    classes = torch.zeros(2, 4, 5, dtype=torch.int64)
    theirs = kornia_losses.dice_loss(x, classes, average="macro")
    hot = torch.nn.functional.one_hot(classes, 3).movedim(3, 1)
    ours = dice_loss(softmax_log_odds(x).reshape(6, -1), hot.reshape(6, -1), smooth=0.0)
    documented(tally, "kornia", ours, theirs, "a class that is not there costs what it is predicted")
