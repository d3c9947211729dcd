"""Random logits, and the same targets in every layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import mlloss_cuda
from mlloss_cuda import CSRTargets

LAYOUTS = (
    "bool", "uint8", "int8", "int16", "int32", "int64",
    "float32", "float64", "bfloat16", "float16", "strided", "csr32", "csr64", "sparse_csr",
)  # fmt: skip
SOFT_LAYOUTS = ("float32", "float64", "csr32", "csr64", "sparse_csr")


def random_logits(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 3.0
) -> Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return values.to(dtype).to(device)


def random_positives(generator: torch.Generator, shape: tuple[int, ...], share: float = 0.2) -> Tensor:
    """Return a bool mask; with more than two rows, one has no positives and one has only positives."""
    positives = torch.rand(shape, generator=generator) < share
    rows = positives.view(-1, shape[-1])
    if rows.shape[0] > 2:
        rows[0], rows[1] = False, True
    return positives


def weights_and_offsets(generator: torch.Generator, shape: tuple[int, int], device: str) -> dict[str, Any]:
    """Return weights of labels and rows, some of them 0, and a scale and a bias of the logits."""
    weight = torch.rand(shape[1], generator=generator).to(device)
    weight[::7] = 0
    sample_weight = torch.rand(shape[0], generator=generator).to(device)
    sample_weight[3] = 0
    bias = torch.randn(shape[1], generator=generator).to(device)
    return {"weight": weight, "sample_weight": sample_weight, "logit_scale": 0.7, "logit_bias": bias}


def random_probabilities(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return multiples of 1/64, which are exact in every dtype; a third of them are 0, a third 1."""
    inner = torch.randint(1, 64, shape, generator=generator).double() / 64
    kind = torch.randint(0, 3, shape, generator=generator)
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, inner))


def as_layout(dense: Tensor, layout: str, device: str) -> Any:
    """Return the 2-D float64 or bool targets ``dense`` in a layout that users pass."""
    if layout in ("csr32", "csr64"):
        csr = CSRTargets.from_dense(dense)
        dtype = torch.int32 if layout == "csr32" else torch.int64
        csr = CSRTargets(csr.crow_indices.to(dtype), csr.col_indices.to(dtype), csr.num_labels, csr.values)
        return csr.to(device)
    if layout == "sparse_csr":
        csr = CSRTargets.from_dense(dense)
        values = csr.values if csr.values is not None else torch.ones(csr.col_indices.shape)
        return torch.sparse_csr_tensor(
            csr.crow_indices, csr.col_indices, values, dense.shape, check_invariants=True
        ).to(device)
    if layout == "strided":
        return dense.to(device).t().contiguous().t()
    return dense.to(device).to(getattr(torch, layout))


@dataclass(frozen=True)
class Outcome:
    value: Tensor
    gradient: Tensor

    def double(self) -> Outcome:
        return Outcome(self.value.detach().cpu().double(), self.gradient.cpu().double())


def evaluate(call: Any, logits: Tensor, targets: Any, grad_output: Tensor | None = None, **arguments: Any) -> Outcome:
    """Return the value and gradient of ``call`` at a copy of ``logits``."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = call(leaf, targets, **arguments)
    seed = torch.ones_like(value) if grad_output is None else grad_output.to(value)
    (gradient,) = torch.autograd.grad(value, leaf, seed)
    return Outcome(value.detach(), gradient)


class Reference:
    """The result of ``call`` by its definition: in float64 (``exact``), and in the precision under test (``plain``)."""

    def __init__(
        self, call: Any, logits: Tensor, targets: Any, grad_output: Tensor | None = None, **arguments: Any
    ) -> None:
        self._logits = logits
        self._evaluate = lambda x: _by_definition(call, x, targets, grad_output, arguments)
        self.exact, self.plain = self._evaluate(logits.double()).double(), self._evaluate(logits).double()

    def errors_nearby(self) -> Iterator[Outcome]:
        """Yield the plain formula's errors at logits that differ by a few roundings."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(8):
            steps = torch.randint(-3, 4, self._logits.shape, generator=generator).to(self._logits.device)
            logits = (self._logits.double() * (1 + steps * torch.finfo(self._logits.dtype).eps)).to(self._logits.dtype)
            exact, plain = self._evaluate(logits.double()).double(), self._evaluate(logits).double()
            yield Outcome(plain.value - exact.value, plain.gradient - exact.gradient)


def _by_definition(call: Any, logits: Tensor, targets: Any, grad_output: Tensor | None, arguments: Any) -> Outcome:
    with mlloss_cuda.use_backend("reference"):
        return evaluate(call, logits, targets, grad_output, **arguments)


def largest(x: Tensor) -> float:
    return float(x.abs().max())


def assert_within_budget(got: Outcome, reference: Reference, factor: float = 4.0) -> None:
    """Assert that errors against float64 are at most ``factor`` times those of the same formula in plain low precision.

    In addition, four roundings of the largest entry are allowed, and 128 in float64, where the reference is no more
    precise than the result. The plain formula may be exact by chance, above all with few numbers: then its errors at
    neighbouring logits count.
    """
    got_dtypes = (got.value.dtype, got.gradient.dtype)
    got, exact, plain = got.double(), reference.exact, reference.plain
    for name, dtype in zip(("value", "gradient"), got_dtypes, strict=True):
        g, e, p = (getattr(outcome, name) for outcome in (got, exact, plain))
        assert g.shape == e.shape, f"{name}: shape {tuple(g.shape)}, expected {tuple(e.shape)}"
        if e.numel() == 0:
            continue
        roundings, size = (128, max(largest(e), 1e-2)) if dtype == torch.float64 else (4, largest(e))
        floor = roundings * torch.finfo(dtype).eps * size + float(torch.finfo(dtype).smallest_normal)
        error, budget = largest(g - e), factor * largest(p - e) + floor
        if not error <= budget:
            nearby = (largest(getattr(errors, name)) for errors in reference.errors_nearby())
            budget = max(budget, factor * max(nearby) + floor)
        assert error <= budget, f"{name}: error {error:.3e} against float64, budget {budget:.3e}"
