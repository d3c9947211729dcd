"""Sums of products over chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..sharding.shards import LabelShards

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

    ``visits``: what is added to each row. Of several ranks the sum over these begins when the last one of ``rows``
    that differ in this has had its last, while other work is done: once, whatever the plan, for ranks may have others.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        visits: int,
        rows: int = 1,
        shards: LabelShards | None = None,
    ) -> None:
        self.dtype, self.shards, self._left = dtype, shards, visits * rows
        wide = _half(dtype) and (visits > 1 or (shards is not None and shards.ranks > 1))
        self.total = torch.empty(shape, dtype=torch.float32 if wide else dtype, device=device)
        self.seen: set[int] = set()
        self._on_the_way: Work | None = None

    def add(self, own: slice, a: Tensor, b: Tensor) -> None:
        """Add ``a @ b`` to these rows of the matrix, which are always met as the same slices."""
        self._add(self.total[own], a, b, own.start not in self.seen)
        self.seen.add(own.start)
        self._left -= 1
        if self._left == 0 and self.shards is not None:
            self._on_the_way = self.shards.begin_sum(self.total)

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
        if self._on_the_way is not None:
            self._on_the_way.wait()
        return self.total.to(self.dtype)
