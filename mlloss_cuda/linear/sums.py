"""Sums of products over chunks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ProductSum", "column_sums", "linear_into", "product"]


def _half(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``: in float32 where a GPU gives what it has accumulated, else rounded once."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda and _half(a.dtype) else a @ b


def linear_into(out: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """``inputs @ weight.T + bias`` into ``out``, in the inputs' dtype, as F.linear has it."""
    weight = weight.to(inputs.dtype).t()
    if bias is None:
        _multiply_into(out, inputs, weight)
    elif torch.compiler.is_compiling():
        out.copy_(torch.addmm(bias.to(inputs.dtype), inputs, weight))
    else:
        torch.addmm(bias.to(inputs.dtype), inputs, weight, out=out)


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    if torch.compiler.is_compiling():
        out.copy_(a @ b)  # dynamo takes no out= that has strides of its own
    else:
        torch.mm(a, b, out=out)


def column_sums(gradient: Tensor) -> Tensor:
    """Over rows, accumulated in float32. On a CPU a wider result would cost a wider copy: it is rounded once."""
    return gradient.sum(0, dtype=torch.float32) if gradient.is_cuda and _half(gradient.dtype) else gradient.sum(0)


class ProductSum:
    """A matrix of sums of products: float32 where there are several and they are narrower."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, visits: int) -> None:
        self.dtype = dtype
        wide = visits > 1 and _half(dtype)
        self.total = torch.empty(shape, dtype=torch.float32 if wide else dtype, device=device)
        self.seen: set[int] = set()

    def add(self, own: slice, a: Tensor, b: Tensor) -> None:
        """Add ``a @ b`` to these rows of the matrix, which are always met as the same slices."""
        target, first = self.total[own], own.start not in self.seen
        self.seen.add(own.start)
        if target.dtype == a.dtype:
            if first:
                _multiply_into(target, a, b)
            else:
                target.addmm_(a, b)
        elif first:
            target.copy_(product(a, b))
        else:
            target.add_(product(a, b))

    def result(self) -> Tensor:
        """The sums, in the dtype that was asked for."""
        return self.total.to(self.dtype)
