"""The drop-in modules have the installed packages' signatures, defaults, and results with defaults."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mlloss_cuda.compat import bert4torch, monai, timm, torchvision

from .packages import bert4torch_losses, monai_losses, timm_losses, torchvision_ops
from .tally import Tally

PACKAGES: dict[str, tuple[ModuleType, Any]] = {
    "monai": (monai, monai_losses),
    "timm": (timm, timm_losses),
    "torchvision": (torchvision, torchvision_ops),
    "bert4torch": (bert4torch, bert4torch_losses),
}
NAMES = [(package, name) for package, (ours, _) in PACKAGES.items() for name in ours.__all__]
# By default these MONAI losses take probabilities; `sigmoid` or `softmax` says that the input is logits.
ACTIVATION = ("DiceLoss", "TverskyLoss", "GeneralizedDiceLoss", "DiceCELoss", "DiceFocalLoss")


class Pair(NamedTuple):
    """Our class or function and the package's, of one name."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]

    @classmethod
    def of(cls, package: str, name: str) -> Pair:
        ours, theirs = PACKAGES[package]
        return cls(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("package", PACKAGES)
def test_documented_version_is_installed(package: str) -> None:
    """The documented version is the installed one, which is pinned."""
    version = importlib.metadata.version(package)
    minor = version.rpartition(".")[0] if package == "torchvision" else version
    assert re.search(rf"\b{re.escape(minor)}\b", PACKAGES[package][0].__doc__ or "")
    pins = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"{package}=={version}"' in pins


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_signature(package: str, name: str) -> None:
    """Names, their order and defaults agree. For a default that is a member of an enum, its value counts."""

    def shown(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, getattr(p.default, "value", p.default)) for p in parameters]

    pair = Pair.of(package, name)
    assert shown(pair.ours) == shown(pair.theirs)
    if isinstance(pair.ours, type):
        forward = (list(inspect.signature(each.forward).parameters) for each in pair)  # type: ignore[attr-defined]
        assert len(set(map(tuple, forward))) == 1


def default_data(package: str, name: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (4, 3, 6) if package == "monai" else (4, 9)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if name.startswith("Sparse"):
        return x, torch.rand(shape, generator=generator).argsort(1)[:, :3]
    return x, (torch.rand(shape, generator=generator) < 0.4).double()


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_default_result(package: str, name: str, generator: torch.Generator, tally: Tally) -> None:
    """Results agree without arguments, or with only the one that declares the input to be logits."""
    x, y = default_data(package, name, generator)
    pair = Pair.of(package, name)
    if name in ACTIVATION:
        with pytest.raises(ValueError, match="sigmoid: expected True, or softmax=True"):
            pair.ours()
        tally.documented(package, pair.theirs()(x, y).isfinite().item(), "inputs that are probabilities are refused")
    for options in ({"sigmoid": True}, {"softmax": True}) if name in ACTIVATION else ({},):
        results = []
        for each in pair:
            leaf = x.clone().requires_grad_()
            call = each(**options) if isinstance(each, type) else each
            value = call(leaf, y)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            results.append((value, gradient))
        # Some of the packages' losses compute in float32, or add an epsilon.
        exact = package in ("monai", "torchvision") and "Focal" not in name
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if exact else {"rtol": 2e-5, "atol": 2e-6}
        for ours, theirs in zip(*results, strict=True):
            assert ours.shape == theirs.shape
            tally.equal(package, ours, theirs, **tolerance)
