"""The head's arithmetic: chunks of logits, their losses and gradients. Autograd is in ``function.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .. import _ops
from ..sharding.shards import LabelShards
from .evaluation import Evaluation, Outcome, Progress, group_columns, zero_sums
from .plan import LinearPlan, Part
from .sums import ProductSum, column_sums, linear_into

__all__ = ["Head", "Sink", "WeightGradients"]


class Sink(Protocol):
    """The receiver of the gradients of weight and bias, block by block."""

    def weight(self, labels: slice, gradient: Tensor, inputs: Tensor) -> None:
        """Receive ``gradient.T @ inputs``; the block's weights are not read again."""

    def bias(self, labels: slice, gradient: Tensor) -> None:
        """Receive the gradient's sum over rows."""


class WeightGradients:
    """The sink that accumulates gradients of weight and bias."""

    def __init__(self, head: Head, weight: bool, bias: bool) -> None:
        shape, plan = tuple(head.weight.shape), head.plan
        visits = plan.chunks if plan.by == "rows" else 1
        self._weight = ProductSum(shape, head.weight.dtype, head.weight.device, visits) if weight else None
        self._bias = head.weight.new_zeros(shape[0], dtype=head.dtype) if bias and head.bias is not None else None
        self._bias_dtype = head.weight.dtype if head.bias is None else head.bias.dtype

    def weight(self, labels: slice, gradient: Tensor, inputs: Tensor) -> None:
        """Add the block's weight gradient."""
        if self._weight is not None:
            self._weight.add(labels, gradient.t(), inputs)

    def bias(self, labels: slice, gradient: Tensor) -> None:
        """Add the block's bias gradient."""
        if self._bias is not None:
            self._bias[labels] += column_sums(gradient)

    def results(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of weight and bias, in their dtypes."""
        of_weight = None if self._weight is None else self._weight.result()
        return of_weight, None if self._bias is None else self._bias.to(self._bias_dtype)


class Head:
    """Input, weight, bias and loss of one call, and its plan."""

    def __init__(
        self,
        inputs: Tensor,  # [B, D], in the dtype of the products
        weight: Tensor,  # [L, D], in any dtype
        bias: Tensor | None,
        evaluations: Sequence[Evaluation],
        plan: LinearPlan,
        needs_input: bool = True,
        shards: LabelShards | None = None,
    ) -> None:
        self.inputs, self.weight, self.bias, self.plan, self.needs_input = inputs, weight, bias, plan, needs_input
        self.shards = shards
        self.dtype = _ops.compute_dtype(inputs)
        self.evaluations = [each.adapted(plan, inputs) for each in evaluations]
        self._buffer: Tensor | None = None

    def values(self) -> tuple[list[Outcome], Tensor | None]:
        """Return each pass's value and coefficients, and the logits if the plan keeps them."""
        progress = self._progress()
        logits = None
        for part in self.plan.parts():
            logits = self.logits(part)
            for each in progress:
                each.evaluate(logits, part)
        second = [each for each in progress if each.needs_second_pass]
        for part in self.plan.parts() if second else ():
            again = logits if self.plan.chunks == 1 and logits is not None else self.logits(part)
            for each in second:
                each.add_second_pass(again, part)
        return [each.outcome(self.dtype) for each in progress], logits if self.plan.keeps_logits else None

    def gradients(
        self, outcomes: Sequence[Outcome], grad_output: Tensor, sink: Sink, kept: Tensor | None, keep: bool
    ) -> tuple[Tensor | None, list[list[Tensor | None]]]:
        """Return the gradients of the input and of each pass's LEARNED tensors.

        ``kept`` holds the logits, or None if they are formed again; they are not overwritten if ``keep``.
        """
        of_input, learned = self._input_sum(), self._learned()
        for part in self.plan.parts():
            logits = self.logits(part) if kept is None else kept
            chunk = [
                (evaluation, group_columns(outcome.coefficients, evaluation.grouping, part))
                for evaluation, outcome in zip(self.evaluations, outcomes, strict=True)
            ]
            overwrite = kept is None or not keep
            self._accumulate(part, self._gradient(logits, part, chunk, grad_output, learned, overwrite), of_input, sink)
        return None if of_input is None else of_input.result(), learned

    def values_and_gradients(self, sink: Sink) -> tuple[list[Outcome], Tensor | None, list[list[Tensor | None]]]:
        """Return values and gradients for a ``grad_output`` of 1."""
        one = torch.ones((), dtype=self.dtype, device=self.inputs.device)
        if not self.plan.within:
            outcomes, kept = self.values()
            return outcomes, *self.gradients(outcomes, one, sink, kept, False)
        of_input, learned = self._input_sum(), self._learned()
        progress = self._progress()
        for part in self.plan.parts():
            gradient = self.logits(part)
            if self._one_op:
                progress[0].evaluate_in_place(gradient, part)
            else:
                chunk = [(each.evaluation, each.evaluate(gradient, part)) for each in progress]
                gradient = self._gradient(gradient, part, chunk, one, learned, True)
            self._accumulate(part, gradient, of_input, sink)
        outcomes = [each.outcome(self.dtype) for each in progress]
        return outcomes, None if of_input is None else of_input.result(), learned

    def _progress(self) -> list[Progress]:
        return [Progress(each, self.plan, self.shards) for each in self.evaluations]

    @property
    def _one_op(self) -> bool:
        """Whether one op gives both the value and the gradient."""
        evaluation = self.evaluations[0]
        return len(self.evaluations) == 1 and evaluation.coefficient == 1 and not any(evaluation.learned)

    # ---- one chunk ----

    def logits(self, part: Part) -> Tensor:
        """Form a chunk's logits in the buffer that all chunks share, with the plan's leading dimension."""
        rows, columns = part.rows.stop - part.rows.start, part.labels.stop - part.labels.start
        leading = self.plan.leading(columns)
        if self._buffer is None:  # no later chunk is larger
            self._buffer = self.inputs.new_empty(rows * leading)
        whole = self._buffer[: rows * leading].view(rows, leading)
        logits = whole[:, :columns]
        if leading > columns and whole.device.type == "cpu":
            # oneDNN's bfloat16 products on AMX multiply the padding by 0, so a NaN in it would reach every result.
            whole[:, columns:].zero_()
        inputs = self.inputs[part.rows]
        for labels, chosen in self._blocks(part):
            bias = None if self.bias is None else self.bias[labels]
            linear_into(logits[:, chosen], inputs, self.weight[labels], bias)
        return logits

    def _blocks(self, part: Part) -> list[tuple[slice, slice]]:
        """Return the labels of each block and their columns in the chunk."""
        first = part.labels.start
        return [(block, slice(block.start - first, block.stop - first)) for block in self.plan.blocks(part.labels)]

    def _gradient(
        self,
        logits: Tensor,
        part: Part,
        chunk: Sequence[tuple[Evaluation, Tensor]],
        grad_output: Tensor,
        learned: list[list[Tensor | None]],
        overwrite: bool,
    ) -> Tensor:
        """Return the sum of the passes' gradients, written over the logits if ``overwrite``."""
        total: Tensor | None = None
        for place, ((evaluation, coefficients), sums) in enumerate(zip(chunk, learned, strict=True)):
            output = group_columns(grad_output, evaluation.grouping, part) * evaluation.coefficient
            ops, arguments = evaluation.ops, evaluation.arguments(logits, part, self.plan)
            if overwrite and place == len(chunk) - 1:
                found = ops.loss_backward_(coefficients, output, *evaluation.learned, *arguments)
                gradient = logits
            else:
                gradient, *found = ops.loss_backward(coefficients, output, True, *evaluation.learned, *arguments)
            _add_learned(sums, found, part)
            total = gradient if total is None else gradient.add_(total)
        assert total is not None
        return total

    def _accumulate(self, part: Part, gradient: Tensor, of_input: ProductSum | None, sink: Sink) -> None:
        """Add a chunk's gradient to the sums for input, weight and bias."""
        inputs = self.inputs[part.rows]
        for labels, columns in self._blocks(part):
            block = gradient[:, columns]
            if of_input is not None:
                of_input.add(part.rows, block, self.weight[labels].to(inputs.dtype))
            if self.bias is not None:
                sink.bias(labels, block)
            sink.weight(labels, block, inputs)

    def _input_sum(self) -> ProductSum | None:
        if not self.needs_input:
            return None
        visits = sum(len(self._blocks(part)) for part in self.plan.parts() if part.rows.start == 0)
        shape, rows = tuple(self.inputs.shape), self.plan.chunks if self.plan.by == "rows" else 1
        return ProductSum(shape, self.inputs.dtype, self.inputs.device, visits, rows, self.shards)

    def _learned(self) -> list[list[Tensor | None]]:
        return [zero_sums(each, self.plan, self.inputs) for each in self.evaluations]


def _add_learned(sums: list[Tensor | None], found: Sequence[Tensor], part: Part) -> None:
    of_rows, of_scale, of_labels = sums
    if of_rows is not None:
        of_rows[part.rows] += found[0]
    if of_scale is not None:
        of_scale += found[1].sum()
    if of_labels is not None:
        of_labels[part.labels] += found[2]
