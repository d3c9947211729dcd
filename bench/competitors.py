"""What is compared: every registered loss, and the other ways to compute it."""

from __future__ import annotations

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

__all__ = ["LABELS", "Case", "Competitor", "Problem", "all_cases", "build", "check"]

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
            found.append(Case(name, function, arguments, _PUBLISHED.get(name)))
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
    """Random logits, and targets with about ``positives`` labels a row in each form."""

    def __init__(self, rows: int, labels: int, dtype: torch.dtype, device: str, seed: int, positives: int = 15) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows, self.labels, self.dtype, self.device = rows, labels, dtype, device
        drawn = torch.randint(labels, (rows, min(positives, labels)), generator=generator)
        csr = CSRTargets.from_lists(drawn.tolist(), labels)
        # float32 whatever the logits' dtype: the truth is computed from what the logits have become.
        self.source = torch.randn(rows, labels, generator=generator).to(dtype).to(device)
        self.csr = csr.to(device)
        self.dense = csr.to_dense().to(device)
        # Where a package takes floating targets they are made beforehand, at no cost to it.
        self.floating = self.dense.to(dtype)
        self.leaf = self.source.clone().requires_grad_()
        self.memory = self.source.clone()
        self._anchor = torch.zeros((), device=device, requires_grad=True)

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
    """One way to compute a case on a problem: ``loss(logits)``, and its backward unless ``copies``."""

    name: str  # a key of LABELS
    loss: Callable[[Tensor], Tensor]
    in_place: bool = False
    copies: bool = False

    def run(self, logits: Tensor) -> Tensor:
        """What is timed."""
        value = self.loss(logits)
        if not self.copies:
            value.backward()
        return value


def _with(loss: Loss, targets: Any) -> Callable[[Tensor], Tensor]:
    return lambda logits: loss(logits, targets)


def _copy(problem: Problem) -> Competitor:
    buffer = torch.empty_like(problem.source)
    return Competitor("copy", lambda logits: buffer.copy_(logits.detach()), copies=True)


def _compiled(loss: Loss) -> Loss:
    compiled: Loss = torch.compile(loss, fullgraph=True, dynamic=False)
    return compiled


def build(case: Case, problem: Problem, names: tuple[str, ...]) -> Iterator[Competitor]:
    """The competitors of those names, as far as the case has them."""
    for name in names:
        if name == "copy":
            yield _copy(problem)
        elif name == "fused":
            yield Competitor(name, _with(case.fused, problem.dense))
        elif name == "csr":
            yield Competitor(name, _with(case.fused, problem.csr))
        elif name == "inplace":
            yield Competitor(name, _with(case.in_place, problem.dense), in_place=True)
        elif name == "eager":
            yield Competitor(name, _with(case.reference, problem.dense))
        elif name == "compile":
            yield Competitor(name, _with(_compiled(case.reference), problem.dense))
        elif case.published is not None:
            loss = case.published if name == "plain" else _compiled(case.published)
            yield Competitor(name, _with(loss, problem.dense if case.name == "zlpr" else problem.floating))


# ---- right before fast ----

# (relative, and of the largest gradient) to float64: float32 sums over many labels; one rounding in the others.
_TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (8e-3, 4e-3), torch.float16: (2e-3, 1e-3)}


def truth(case: Case, problem: Problem) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64."""
    logits = problem.source.double().requires_grad_()
    value = case.reference(logits, problem.dense)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def _compare(what: str, found: Tensor, expected: Tensor, relative: float, absolute: float) -> None:
    error = (found.double() - expected).abs()
    allowed = expected.abs() * relative + absolute
    # Not `>`: that is False for NaN.
    wrong = ~(error <= allowed)
    assert not bool(wrong.any()), (
        f"{what}: {int(wrong.sum())} of {error.numel()} differ from float64, by up to {float(error.max()):.3g}"
    )


def check(competitor: Competitor, problem: Problem, expected: tuple[Tensor, Tensor]) -> None:
    """Run once and compare with float64.

    Raises:
        AssertionError: value or gradient is wrong.
    """
    value = competitor.run(problem.fresh(competitor.in_place)).detach()
    if competitor.copies:
        assert torch.equal(value, problem.source), "the copy differs"
        return
    relative, absolute = _TOLERANCES[problem.dtype]
    _compare("value", value, expected[0], relative, 0.0)
    largest = float(expected[1].abs().max())
    _compare("gradient", problem.gradient(competitor.in_place), expected[1], relative, absolute * largest)
