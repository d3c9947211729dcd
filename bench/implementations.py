"""The losses that are timed, their data, and every implementation: this package's and its peers'."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlloss_cuda import CSRTargets, losses, use_backend

from . import formulas

__all__ = [
    "LABELS",
    "LAYOUTS",
    "MAIN",
    "OURS",
    "PACKAGES",
    "Case",
    "Implementation",
    "Problem",
    "all_cases",
    "build",
    "kernel_cases",
]

Loss = Callable[[Tensor, Any], Tensor]

LABELS = {
    "copy": "copy of the logits",
    "fused": "mlloss_cuda",
    "floating": "mlloss_cuda, floating targets",
    "csr": "mlloss_cuda, CSR",
    "inplace": "mlloss_cuda, in place",
    "eager": "reference, eager",
    "compile": "reference, torch.compile",
    "plain": "as published, eager",
    "plain-compile": "as published, torch.compile",
    "float32": "as published, in float32, eager",
    "float32-compile": "as published, in float32, torch.compile",
    "torchvision": "torchvision",
    "monai": "MONAI",
}

# This package's implementations by the form of targets, an attribute of a problem; "inplace" takes dense ones.
LAYOUTS = {"fused": "dense", "floating": "floating", "csr": "csr"}
OURS = (*LAYOUTS, "inplace")
PACKAGES = ("torchvision", "monai")

MAIN = ("zlpr", "focal", "bce", "dice")  # compared with every peer, at every size
# Sums of losses, one pass each on every engine: the most usual sum, and one with all three kinds of statistics.
_SUMS = (("zlpr", "dice"), ("zlpr", "focal", "dice"))
_SHORT = {"sigmoid_focal": "focal", "bce_with_logits": "bce"}  # names in tables


@dataclass(frozen=True)
class Case:
    """One loss with its defaults."""

    name: str
    function: Callable[..., Tensor]
    spec: str  # the name of the kernels, which some losses share
    groupings: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=lambda: LAYOUTS)  # second argument by implementation

    @property
    def second_argument(self) -> str:
        """The second argument of peers and of the float64 reference: an attribute of a problem."""
        return self.layouts["fused"]

    @property
    def takes_targets(self) -> bool:
        """True if the second argument is targets, and not the logits of a second pass."""
        return self.second_argument == "dense"

    @property
    def gradients(self) -> int:
        """The number of gradients: one for each input of logits."""
        return 1 if self.takes_targets else 2

    @property
    def element_wise(self) -> bool:
        """True if the loss of a label depends on that label alone."""
        return self.groupings == ("element",)

    @property
    def main(self) -> bool:
        """True if the README's tables and the curves over L show it."""
        return self.name in MAIN

    @property
    def published(self) -> Loss | None:
        """The bare formula, if there is one."""
        return formulas.PUBLISHED.get(self.name)

    def fused(self, logits: Tensor, targets: Any) -> Tensor:
        """Compute the loss through the public API, on the default backend."""
        return self.function(logits, targets, **self.arguments)

    def in_place(self, logits: Tensor, targets: Any) -> Tensor:
        """Compute the loss with the gradient in the logits' memory."""
        return self.function(logits, targets, inplace_backward=True, **self.arguments)

    def reference(self, logits: Tensor, targets: Any) -> Tensor:
        """Compute the loss in plain PyTorch, as the library defines it."""
        with use_backend("reference"):
            return self.function(logits, targets, **self.arguments)


def all_cases() -> tuple[Case, ...]:
    """Return a case for each loss and for some sums, the main ones first."""
    found = [*(case for name in losses.__all__ for case in _alone(getattr(losses, name))), *map(_sum, _SUMS)]
    rank = {name: place for place, name in enumerate(MAIN)}
    return tuple(sorted(found, key=lambda case: rank.get(case.name, len(MAIN))))


def _alone(module: Any) -> Iterator[Case]:
    """Yield the case of a loss's module; functions and sums yield none."""
    function = getattr(module, "_function", None)
    if function is None or module is losses.CompoundLoss:
        return
    name = function.__name__.removesuffix("_loss")
    spec = module().term().spec
    layouts = LAYOUTS if "targets" in inspect.signature(function).parameters else {"fused": "other"}
    yield Case(_SHORT.get(name, name), function, spec.name, spec.groupings, layouts=layouts)


def _sum(names: tuple[str, ...]) -> Case:
    made = {"zlpr": losses.ZLPRLoss, "focal": losses.SigmoidFocalLoss, "dice": losses.DiceLoss}
    name = "+".join(names)
    return Case(name, losses.compound_loss, name, ("samples",), {"terms": [(1.0, made[term]()) for term in names]})


def kernel_cases() -> tuple[Case, ...]:
    """Return the first of the losses that share their kernels; no sums."""
    alone = tuple(case for case in all_cases() if case.function is not losses.compound_loss)
    first = {case.spec: case for case in reversed(alone)}
    return tuple(case for case in alone if first[case.spec] == case)


class _Made(torch.autograd.Function):
    """Make logits that are no leaf and whose gradient goes no further: ``inplace_backward`` rejects leaves."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, memory: Tensor) -> Tensor:
        # A new tensor on that memory: autograd refuses to overwrite a view made here.
        return memory.new_empty(0).set_(memory.untyped_storage(), 0, memory.shape, memory.stride())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return None, None


class Problem:
    """Random logits, and targets with ``positives`` labels a row, in each form, drawn on the device."""

    def __init__(self, rows: int, labels: int, dtype: torch.dtype, device: str, seed: int, positives: int = 15) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self.rows, self.labels, self.dtype, self.device = rows, labels, dtype, device
        self.source = torch.randn(rows, labels, generator=generator, dtype=dtype, device=device)
        # One label of each range: sorted and distinct, without a loop over rows.
        each = min(positives, labels)
        width = labels // each
        drawn = torch.randint(width, (rows, each), generator=generator, device=device)
        columns = (drawn + torch.arange(each, device=device) * width).flatten()
        self.csr = CSRTargets(torch.arange(rows + 1, device=device) * each, columns, labels)
        self.dense = self.csr.to_dense()

    @functools.cached_property
    def floating(self) -> Tensor:
        """Floating targets, made beforehand at no cost to the packages that take them."""
        return self.dense.to(self.dtype)

    @functools.cached_property
    def other(self) -> Tensor:
        """The logits of a second pass over the same input, near the first's; they are differentiated too."""
        return (self.source + 0.5 * self.source.roll(1, 1)).requires_grad_()

    @functools.cached_property
    def leaf(self) -> Tensor:
        """The logits to differentiate, in their own memory."""
        return self.source.clone().requires_grad_()

    @functools.cached_property
    def memory(self) -> Tensor:
        """The memory of the logits that their gradient overwrites."""
        return self.source.clone()

    @functools.cached_property
    def _anchor(self) -> Tensor:
        return torch.zeros((), device=self.device, requires_grad=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the logits: the unit of memory."""
        return self.source.nbytes

    @property
    def target_bytes(self) -> dict[str, int]:
        """Bytes of the targets in each form, and of the other logits."""
        csr = self.csr.crow_indices.nbytes + self.csr.col_indices.nbytes
        return {"dense": self.dense.nbytes, "floating": self.nbytes, "csr": csr, "other": self.nbytes}

    def fresh(self, in_place: bool = False) -> Tensor:
        """Return logits that were just written, as the layer before them would, and that have no gradient."""
        self.forget_gradients()
        if in_place:
            self.memory.copy_(self.source)
            return _Made.apply(self._anchor, self.memory)
        with torch.no_grad():
            self.leaf.copy_(self.source)
        return self.leaf

    def forget_gradients(self) -> None:
        """Free the gradients of the last backward."""
        for made in ("leaf", "other"):
            if made in self.__dict__:
                getattr(self, made).grad = None

    def gradient(self, in_place: bool = False) -> Tensor:
        """Return the gradient of the last backward."""
        gradient = self.memory if in_place else self.leaf.grad
        assert gradient is not None, "no gradient: run a backward first"
        return gradient


@dataclass
class Implementation:
    """An implementation of a case, and of its backward unless ``copies``."""

    name: str  # a key of LABELS
    formula: Loss
    targets: str = "dense"  # the form of a problem's targets that it takes
    in_place: bool = False
    copies: bool = False

    def loss(self, logits: Tensor, problem: Problem) -> Tensor:
        """Compute the forward."""
        return self.formula(logits, getattr(problem, self.targets))

    def run(self, logits: Tensor, problem: Problem) -> Tensor:
        """Run what is timed."""
        value = self.loss(logits, problem)
        if not self.copies:
            value.backward()
        return value


def _compiled(loss: Loss) -> Loss:
    compiled: Loss = torch.compile(loss, fullgraph=True, dynamic=False)
    return compiled


def _in_float32(loss: Loss) -> Loss:
    """Return the loss as autocast runs it: logits and targets are converted first, which a compiler fuses."""
    return lambda logits, targets: loss(logits.float(), targets.float())


def _in_float32_bool(loss: Loss) -> Loss:
    return lambda logits, targets: loss(logits.float(), targets)


def _published(name: str, case: Case, problem: Problem) -> Implementation | None:
    """Return the published formula of a case, on the kind of targets that suits it best."""
    loss = case.published
    if loss is None:
        return None
    takes_bool = case.name in formulas.MASKING
    takes = "dense" if takes_bool else "floating" if case.takes_targets else case.second_argument
    if name.startswith("float32"):
        loss = _in_float32_bool(loss) if takes_bool else _in_float32(loss)
    if not name.endswith("compile"):
        return Implementation(name, loss, takes)
    # A GPU reads a byte a label faster than a float; on a CPU inductor's code is 1.1 to 1.6 times slower from bool.
    reads_bytes = name == "float32-compile" and problem.device != "cpu"
    return Implementation(name, _compiled(loss), case.second_argument if reads_bytes else takes)


def _package(name: str, case: Case) -> Implementation | None:
    """Return another package's loss, if the package is installed and has it."""
    if importlib.util.find_spec(name) is None:
        return None
    loss = {"torchvision": formulas.torchvision, "monai": formulas.monai}[name](case.name)
    return None if loss is None else Implementation(name, loss, "floating")


def _copy(problem: Problem) -> Implementation:
    buffer = torch.empty_like(problem.source)
    return Implementation("copy", lambda logits, _: buffer.copy_(logits.detach()), copies=True)


def _make(name: str, case: Case, problem: Problem) -> Implementation | None:
    if name == "copy":
        return _copy(problem)
    if name in LAYOUTS:
        return Implementation(name, case.fused, case.layouts[name]) if name in case.layouts else None
    if name == "inplace":
        return Implementation(name, case.in_place, in_place=True) if case.takes_targets else None
    if name in ("eager", "compile"):
        return Implementation(
            name, case.reference if name == "eager" else _compiled(case.reference), case.second_argument
        )
    return _package(name, case) if name in PACKAGES else _published(name, case, problem)


def build(case: Case, problem: Problem, names: tuple[str, ...]) -> Iterator[Implementation]:
    """Yield the implementations with these names that the case has."""
    for name in names:
        implementation = _make(name, case, problem)
        if implementation is not None:
            yield implementation
