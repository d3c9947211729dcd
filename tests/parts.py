"""A loss whose labels come in parts, by the ops that a caller without all of the labels at once uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mlloss_cuda import _autograd, _dispatch, _ops
from mlloss_cuda._call import Options, TensorArguments, shared_arguments


class _Parts:
    """One call in parts: each part's arguments, and the ops over them."""

    def __init__(self, logits: Tensor, sides: TensorArguments, options: Options, sizes: Sequence[int]) -> None:
        labels = logits.shape[1]
        assert sum(sizes) == labels
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.ranges = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.ops = getattr(torch.ops, options.namespace)
        self.options = options
        self.sides, self.rows, self.dtype = sides, logits.shape[0], _ops.compute_dtype(logits)
        self.arguments = []
        for own in self.ranges:
            part = logits[:, own]
            here = options._replace(first_label=own.start, all_labels=labels)
            self.arguments.append((part, *shared_arguments(_sides_of(sides, own), here)))

    @property
    def grouping(self) -> str:
        return _ops.GROUPINGS[self.options.grouping]

    @property
    def within(self) -> bool:
        """Whether every group lies within one part."""
        return self.grouping in ("element", "macro")

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        """Return the value, and coefficients for each part."""
        if not self.within:
            value, coefficients = self._finish()
            return value, [coefficients] * len(self.ranges)
        values, coefficients, _ = zip(
            *(self.ops.loss_forward(True, False, *arguments) for arguments in self.arguments), strict=True
        )
        if _ops.REDUCTIONS[self.options.reduction] == "none":
            return torch.cat(values, -1), list(coefficients)
        return torch.stack(values).sum(0), list(coefficients)

    def _finish(self) -> tuple[Tensor, Tensor]:
        loss = self.options.loss
        statistics = torch.stack([self.ops.loss_statistics(*arguments) for arguments in self.arguments])
        second_sums = statistics.new_empty(0)
        if _ops.counts_of(loss).second_pass_sums:
            merged = self.ops.loss_merge(statistics, loss)
            second_sums = torch.stack([self.ops.loss_second_pass(merged, *arguments) for arguments in self.arguments])
        numbers = self.options.grouping, self.options.reduction, self.rows, self.dtype
        sides = self.sides.sample_weight, self.sides.normalizer
        return self.ops.loss_finalize(statistics, second_sums, *sides, loss, list(self.options.parameters), *numbers)

    def backward(
        self, coefficients: Sequence[Tensor], grad_output: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return loss_backward's results: the gradient, its sums over labels, over labels times x, and over rows."""
        results = []
        for own, arguments, kept in zip(self.ranges, self.arguments, coefficients, strict=True):
            output = grad_output[..., own] if self.within and grad_output.dim() else grad_output
            results.append(self.ops.loss_backward(kept, output, True, *needs, *arguments))
        gradient, row, scale, label = zip(*results, strict=True)
        return torch.cat(gradient, 1), sum(row), sum(scale), torch.cat(label)


def _sides_of(sides: TensorArguments, own: slice) -> TensorArguments:
    of_labels = {name: getattr(sides, name) for name in ("weight", "label_offset", "label_parameter")}
    cut = {name: side if side is None else side[own] for name, side in of_labels.items()}
    return sides._replace(targets=None if sides.targets is None else sides.targets[:, own], **cut)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        *tensors, options, sizes = arguments
        parts = _Parts(logits, TensorArguments(*tensors), options, sizes)
        value, coefficients = parts.forward()
        ctx.parts, ctx.coefficients = parts, coefficients
        kept = torch.cat(coefficients, 1) if parts.within else coefficients[0]
        ctx.mark_non_differentiable(kept)
        return value, kept

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Any, ...]:
        needs = TensorArguments(*ctx.needs_input_grad[1:-2])
        wanted = needs.row_offset, needs.logit_scale, needs.label_offset
        gradient, row, scale, label = ctx.parts.backward(ctx.coefficients, grad_output, wanted)
        given = ctx.parts.sides.row_offset
        grads = TensorArguments(
            logit_scale=scale.sum() if needs.logit_scale else None,
            label_offset=label if needs.label_offset else None,
            row_offset=(row.sum() if given.dim() == 0 else row) if needs.row_offset else None,
        )
        return gradient, *grads, None, None


@contextmanager
def in_parts(sizes: Sequence[int]) -> Iterator[None]:
    """Run fused losses of ``sum(sizes)`` labels in parts of these sizes, one after another; other losses run whole."""
    whole = _autograd.fused_loss

    def fused_loss(logits: Tensor, sides: TensorArguments, options: Options) -> tuple[Tensor, Tensor]:
        if logits.shape[1] != sum(sizes):
            return whole(logits, sides, options)
        return _InParts.apply(logits, *sides, options, tuple(sizes))

    with pytest.MonkeyPatch.context() as patch:
        for module in (_autograd, _dispatch):
            patch.setattr(module, "fused_loss", fused_loss)
        yield
