"""Matrix products, and their sums over chunks."""

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
    """Return ``a @ b``: the float32 accumulators of narrow types on CUDA, else a result that is rounded once."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda and _half(a.dtype) else a @ b


def linear_into(out: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Write ``inputs @ weight.T + bias`` to ``out``, computed in the inputs' dtype as by ``F.linear``."""
    weight = weight.to(inputs.dtype).t()
    if bias is None:
        _multiply_into(out, inputs, weight)
    elif torch.compiler.is_compiling():
        out.copy_(torch.addmm(bias.to(inputs.dtype), inputs, weight))
    else:
        torch.addmm(bias.to(inputs.dtype), inputs, weight, out=out)


def _multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    if torch.compiler.is_compiling():
        out.copy_(a @ b)  # dynamo does not support a strided out=
    else:
        torch.mm(a, b, out=out)


def column_sums(gradient: Tensor) -> Tensor:
    """Return the sums over rows, accumulated in float32.

    On a CPU the result is rounded once to the gradient's dtype: a wider result would cost a wider copy.
    """
    return gradient.sum(0, dtype=torch.float32) if gradient.is_cuda and _half(gradient.dtype) else gradient.sum(0)


class ProductSum:
    """A matrix of sums of products; it is float32 if several narrower products are summed.

    ``visits`` is the number of products added to each slice of rows, and ``rows`` the number of such slices. With
    several ranks, the sum over them starts after the last product and overlaps other work. It is one collective
    whatever the plan, because ranks may have different plans.
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
        self.dtype, self.shards, self._remaining = dtype, shards, visits * rows
        wide = _half(dtype) and (visits > 1 or (shards is not None and shards.ranks > 1))
        self.total = torch.empty(shape, dtype=torch.float32 if wide else dtype, device=device)
        self.seen: set[int] = set()
        self._pending_sum: Work | None = None

    def add(self, rows: slice, a: Tensor, b: Tensor) -> None:
        """Add ``a @ b`` to a slice of the matrix's rows; slices never overlap partially."""
        self._add(self.total[rows], a, b, rows.start not in self.seen)
        self.seen.add(rows.start)
        self._remaining -= 1
        if self._remaining == 0 and self.shards is not None:
            self._pending_sum = self.shards.begin_sum(self.total)

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
        """Return the sums, over all ranks, in the requested dtype."""
        if self._pending_sum is not None:
            self._pending_sum.wait()
        return self.total.to(self.dtype)
