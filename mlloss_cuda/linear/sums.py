"""Sums of products over chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._shards import LabelShards

if TYPE_CHECKING:
    from torch.distributed import Work

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
    """A matrix of sums of products: float32 where there are several and they are narrower.

    Rows that have had all their ``visits`` begin their way to the sum over ranks, while others are worked on.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        visits: int,
        shards: LabelShards | None = None,
    ) -> None:
        self.dtype, self.visits, self.shards = dtype, visits, shards
        wide = visits > 1 and _half(dtype)
        self.total = torch.empty(shape, dtype=torch.float32 if wide else dtype, device=device)
        self.seen: dict[int, int] = {}
        self._on_the_way: list[Work] = []

    def add(self, own: slice, a: Tensor, b: Tensor) -> None:
        """Add ``a @ b`` to these rows of the matrix, which are always met as the same slices."""
        target, seen = self.total[own], self.seen.get(own.start, 0)
        self._add(target, a, b, not seen)
        self.seen[own.start] = seen + 1
        if seen + 1 == self.visits and self.shards is not None and (work := self.shards.begin_sum(target)):
            self._on_the_way.append(work)

    @staticmethod
    def _add(target: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
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
        """The sums, over ranks where there are several, in the dtype that was asked for."""
        for work in self._on_the_way:
            work.wait()
        return self.total.to(self.dtype)
