"""Random logits, and the same targets in every layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    """A bool mask with a row of no positives and, where there are rows enough, one of positives only."""
    positives = torch.rand(shape, generator=generator) < share
    rows = positives.view(-1, shape[-1])
    if rows.shape[0] > 2:
        rows[0], rows[1] = False, True
    return positives


def random_probabilities(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Multiples of 1/64, exact in every dtype; a third 0, a third 1."""
    inner = torch.randint(1, 64, shape, generator=generator).double() / 64
    kind = torch.randint(0, 3, shape, generator=generator)
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, inner))


def as_layout(dense: Tensor, layout: str, device: str) -> Any:
    """The 2-D float64 or bool targets ``dense`` as users pass them."""
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
    """Value and gradient of ``call`` at a copy of ``logits``."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = call(leaf, targets, **arguments)
    seed = torch.ones_like(value) if grad_output is None else grad_output.to(value)
    (gradient,) = torch.autograd.grad(value, leaf, seed)
    return Outcome(value.detach(), gradient)


def assert_within_budget(got: Outcome, exact: Outcome, plain: Outcome, factor: float = 4.0) -> None:
    """Errors against float64 at most ``factor`` times those of the same formula in plain low precision.

    Where the plain formula happens to be exact, four roundings of the largest entry are allowed; in
    float64, where the reference is no more precise than what it is compared with, a hundred and twenty-eight.
    """
    got_dtypes = (got.value.dtype, got.gradient.dtype)
    got, exact, plain = got.double(), exact.double(), plain.double()
    for name, dtype in zip(("value", "gradient"), got_dtypes, strict=True):
        g, e, p = (getattr(outcome, name) for outcome in (got, exact, plain))
        assert g.shape == e.shape, f"{name}: shape {tuple(g.shape)}, expected {tuple(e.shape)}"
        if e.numel() == 0:
            continue
        roundings, size = (
            (128, max(float(e.abs().max()), 1e-2)) if dtype == torch.float64 else (4, float(e.abs().max()))
        )
        floor = roundings * torch.finfo(dtype).eps * size + float(torch.finfo(dtype).smallest_normal)
        error, budget = float((g - e).abs().max()), factor * float((p - e).abs().max()) + floor
        assert error <= budget, f"{name}: error {error:.3e} against float64, budget {budget:.3e}"
