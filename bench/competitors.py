"""What is compared: every registered loss, and the other ways to compute it."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import mlloss_cuda
from mlloss_cuda import CSRTargets, use_backend
from mlloss_cuda._registry import all_losses

__all__ = ["LABELS", "Case", "Competitor", "Problem", "all_cases", "build"]

Loss = Callable[[Tensor, Any], Tensor]

LABELS = {
    "copy": "copy of the logits",
    "fused": "mlloss_cuda",
    "csr": "mlloss_cuda, CSR",
    "inplace": "mlloss_cuda, in place",
    "eager": "reference, eager",
    "compile": "reference, torch.compile",
    "plain": "as published, eager",
    "plain-compile": "as published, torch.compile",
    "float32": "as published, in float32, eager",
    "float32-compile": "as published, in float32, torch.compile",
    "torchvision": "torchvision",
}


# ---- the formulas as papers and other packages write them: without this package's options and checks ----


def _zlpr(logits: Tensor, targets: Tensor) -> Tensor:
    zero = logits.new_zeros(logits.shape[0], 1)
    negatives = torch.cat([logits.masked_fill(targets, -torch.inf), zero], 1)
    positives = torch.cat([(-logits).masked_fill(~targets, -torch.inf), zero], 1)
    return (negatives.logsumexp(1) + positives.logsumexp(1)).mean()


def _focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * ce * (1 - p_t) ** gamma).mean()


def _dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    p = logits.sigmoid()
    overlap = 2 * (p * targets).sum(1) + smooth
    return (1 - overlap / (p.sum(1) + targets.sum(1) + smooth)).mean()


# Each with the targets that suit it best: ZLPR bool, the others floating.
_PUBLISHED: dict[str, Loss] = {
    "zlpr": _zlpr,
    "focal": _focal,
    "bce": F.binary_cross_entropy_with_logits,
    "dice": _dice,
}

# A loss with settings that deserve rows of their own; any other has one row, of its name, with its defaults.
_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sigmoid_focal": {"focal": {"alpha": 0.25, "gamma": 2.0}, "bce": {"alpha": None, "gamma": 0.0}},
}


@dataclass(frozen=True)
class Case:
    """One loss with its settings."""

    name: str
    function: Callable[..., Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    published: Loss | None = None
    element_wise: bool = False

    def fused(self, logits: Tensor, targets: Any) -> Tensor:
        """The loss through the public API, on the backend that serves."""
        return self.function(logits, targets, **self.arguments)

    def in_place(self, logits: Tensor, targets: Any) -> Tensor:
        """The same, with the gradient in the logits' memory."""
        return self.function(logits, targets, inplace_backward=True, **self.arguments)

    def reference(self, logits: Tensor, targets: Any) -> Tensor:
        """The loss in plain PyTorch, as the library defines it."""
        with use_backend("reference"):
            return self.function(logits, targets, **self.arguments)


def all_cases() -> tuple[Case, ...]:
    """A case or more for each registered loss that takes logits and targets."""
    found = []
    for spec in all_losses():
        function = getattr(mlloss_cuda, f"{spec.name}_loss", None)
        if function is None or list(inspect.signature(function).parameters)[1:2] != ["targets"]:
            continue
        for name, arguments in _VARIANTS.get(spec.name, {spec.name: {}}).items():
            found.append(Case(name, function, arguments, _PUBLISHED.get(name), spec.element_wise))
    return tuple(found)


class _Made(torch.autograd.Function):
    """Logits that an operation made, whose gradient goes no further: ``inplace_backward`` takes no leaf."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, memory: Tensor) -> Tensor:
        # A tensor of its own on that memory: autograd refuses to overwrite a view made here.
        return memory.new_empty(0).set_(memory.untyped_storage(), 0, memory.shape, memory.stride())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, None


class Problem:
    """Random logits, and targets with ``positives`` labels a row in each form, drawn where they are needed."""

    def __init__(self, rows: int, labels: int, dtype: torch.dtype, device: str, seed: int, positives: int = 15) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self.rows, self.labels, self.dtype, self.device = rows, labels, dtype, device
        self.source = torch.randn(rows, labels, generator=generator, dtype=dtype, device=device)
        # One label of each of so many ranges: sorted and distinct, without a loop over rows.
        each = min(positives, labels)
        width = labels // each
        drawn = torch.randint(width, (rows, each), generator=generator, device=device)
        columns = (drawn + torch.arange(each, device=device) * width).flatten()
        self.csr = CSRTargets(torch.arange(rows + 1, device=device) * each, columns, labels)
        self.dense = self.csr.to_dense()

    @functools.cached_property
    def floating(self) -> Tensor:
        """Where a package takes floating targets they are made beforehand, at no cost to it."""
        return self.dense.to(self.dtype)

    @functools.cached_property
    def leaf(self) -> Tensor:
        """The logits to differentiate, in memory of their own."""
        return self.source.clone().requires_grad_()

    @functools.cached_property
    def memory(self) -> Tensor:
        """For the gradient that overwrites the logits."""
        return self.source.clone()

    @functools.cached_property
    def _anchor(self) -> Tensor:
        return torch.zeros((), device=self.device, requires_grad=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the logits: the unit of memory."""
        return self.source.nbytes

    def fresh(self, in_place: bool = False) -> Tensor:
        """The logits, just written, as the layer before leaves them, and without a gradient."""
        self.leaf.grad = None
        if in_place:
            self.memory.copy_(self.source)
            return _Made.apply(self._anchor, self.memory)
        with torch.no_grad():
            self.leaf.copy_(self.source)
        return self.leaf

    def gradient(self, in_place: bool = False) -> Tensor:
        """What the last backward left."""
        gradient = self.memory if in_place else self.leaf.grad
        assert gradient is not None, "no gradient: run a backward first"
        return gradient


@dataclass
class Competitor:
    """One way to compute a case, and its backward unless ``copies``."""

    name: str  # a key of LABELS
    formula: Loss
    targets: str = "dense"  # the form of a problem's targets that it takes
    in_place: bool = False
    copies: bool = False

    def loss(self, logits: Tensor, problem: Problem) -> Tensor:
        """The forward."""
        return self.formula(logits, getattr(problem, self.targets))

    def run(self, logits: Tensor, problem: Problem) -> Tensor:
        """What is timed."""
        value = self.loss(logits, problem)
        if not self.copies:
            value.backward()
        return value


def _compiled(loss: Loss) -> Loss:
    compiled: Loss = torch.compile(loss, fullgraph=True, dynamic=False)
    return compiled


def _in_float32(loss: Loss) -> Loss:
    """As autocast runs it: low-precision logits and targets are converted first, which a compiler fuses."""
    return lambda logits, targets: loss(logits.float(), targets.float())


def _in_float32_bool(loss: Loss) -> Loss:
    return lambda logits, targets: loss(logits.float(), targets)


def _published(name: str, case: Case) -> Competitor | None:
    """The published formula of a case, on the kind of targets that suits it best."""
    loss = case.published
    if loss is None:
        return None
    takes_bool = case.name == "zlpr"
    if name.startswith("float32"):
        loss = _in_float32_bool(loss) if takes_bool else _in_float32(loss)
    if not name.endswith("compile"):
        return Competitor(name, loss, "dense" if takes_bool else "floating")
    # Converted in the fused kernel, a byte a label is less to read than floating targets.
    return Competitor(name, _compiled(loss), "dense" if takes_bool or name == "float32-compile" else "floating")


def _torchvision(case: Case) -> Competitor | None:
    """torchvision's focal loss, where it is installed."""
    if case.name != "focal" or importlib.util.find_spec("torchvision") is None:
        return None
    focal = importlib.import_module("torchvision.ops").sigmoid_focal_loss
    return Competitor("torchvision", functools.partial(focal, reduction="mean", **case.arguments), "floating")


def _copy(problem: Problem) -> Competitor:
    buffer = torch.empty_like(problem.source)
    return Competitor("copy", lambda logits, _: buffer.copy_(logits.detach()), copies=True)


def _make(name: str, case: Case, problem: Problem) -> Competitor | None:
    if name == "copy":
        return _copy(problem)
    if name in ("fused", "csr"):
        return Competitor(name, case.fused, "csr" if name == "csr" else "dense")
    if name == "inplace":
        return Competitor(name, case.in_place, in_place=True)
    if name in ("eager", "compile"):
        return Competitor(name, case.reference if name == "eager" else _compiled(case.reference))
    return _torchvision(case) if name == "torchvision" else _published(name, case)


def build(case: Case, problem: Problem, names: tuple[str, ...]) -> Iterator[Competitor]:
    """The competitors of those names, as far as the case has them."""
    for name in names:
        competitor = _make(name, case, problem)
        if competitor is not None:
            yield competitor
