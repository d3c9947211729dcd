"""A loss over chunks of its logits: the ops' arguments for each chunk, and the results of all chunks together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .. import _ops
from .._call import OF_LABELS, Options, TensorArguments, shared_arguments
from ..sharding.evaluation import finished
from ..sharding.shards import LabelShards
from .plan import LinearPlan, Part

__all__ = ["Evaluation", "Outcome", "Progress", "group_columns", "zero_sums"]

_OF_ROWS: Final = ("targets", "sample_weight")


class Evaluation(NamedTuple):
    """One of the passes over the logits that make up a loss."""

    coefficient: float
    sides: TensorArguments
    options: Options
    learned: tuple[bool, bool, bool] = (False, False, False)  # which of LEARNED need a gradient

    @property
    def grouping(self) -> str:
        """The grouping's name in ``_ops.GROUPINGS``."""
        return _ops.GROUPINGS[self.options.grouping]

    @property
    def ops(self) -> Any:
        """The namespace of the engine's ops."""
        return getattr(torch.ops, self.options.namespace)

    def within(self, plan: LinearPlan) -> bool:
        """Return whether every group lies within one chunk."""
        if plan.chunks == 1 and not plan.sharded:
            return True
        if plan.by == "rows" and plan.chunks > 1:
            return self.grouping == "element" or (self.grouping == "samples" and not plan.sharded)
        return self.grouping in ("element", "macro")

    def adapted(self, plan: LinearPlan, like: Tensor) -> Evaluation:
        """Return the evaluation with a mean over chunks of rows replaced by a sum and a normalizer."""
        reduction = _ops.REDUCTIONS[self.options.reduction]
        if plan.by == "labels" or plan.chunks == 1 or reduction in ("none", "sum"):
            return self
        each = self.all_labels(plan) if reduction == "mean" and self.grouping == "element" else 1
        count = torch.full((), plan.rows * each, dtype=_ops.compute_dtype(like), device=like.device)
        total = self.options._replace(reduction=_ops.REDUCTIONS.index("sum"))
        return self._replace(sides=self.sides._replace(normalizer=count), options=total)

    def all_labels(self, plan: LinearPlan) -> int:
        """Return the number of labels over all ranks; the plan counts those of this rank."""
        return plan.labels if self.options.all_labels is None else self.options.all_labels

    def arguments(self, logits: Tensor, part: Part, plan: LinearPlan) -> tuple[Any, ...]:
        """Return the first arguments of the ops for a chunk, as views without copies."""
        sides, options = self.sides, self.options
        if plan.chunks > 1 and plan.by == "labels":
            sides = _cut(sides, OF_LABELS, part.labels)
            if sides.targets is not None:
                sides = sides._replace(targets=sides.targets[:, part.labels])
            first = options.first_label + part.labels.start
            options = options._replace(first_label=first, all_labels=self.all_labels(plan))
        elif plan.chunks > 1:
            sides = _cut(sides, _OF_ROWS, part.rows)
            if sides.crow_indices is not None:
                # The entries remain positions in the whole col_indices.
                sides = sides._replace(crow_indices=sides.crow_indices[part.rows.start : part.rows.stop + 1])
            if sides.row_offset is not None and sides.row_offset.dim():
                sides = sides._replace(row_offset=sides.row_offset[part.rows])
        return (logits, *shared_arguments(sides, options))


def _cut(sides: TensorArguments, names: Sequence[str], chosen: slice) -> TensorArguments:
    return sides._replace(**{name: side[chosen] for name in names if (side := getattr(sides, name)) is not None})


def group_columns(tensor: Tensor, grouping: str, part: Part) -> Tensor:
    """Return the chunk's part of a tensor with one column for each group: coefficients or ``grad_output``."""
    if tensor.dim() == 0 or grouping in ("element", "micro"):
        return tensor
    return tensor[..., part.rows if grouping == "samples" else part.labels].contiguous()


def zero_sums(evaluation: Evaluation, plan: LinearPlan, like: Tensor) -> list[Tensor | None]:
    """Return zeros for the gradients of LEARNED, or None for those that are not needed."""
    sizes = ((plan.rows,), (), (plan.labels,))
    return [
        like.new_zeros(size, dtype=_ops.compute_dtype(like)) if needed else None
        for needed, size in zip(evaluation.learned, sizes, strict=True)
    ]


class Outcome(NamedTuple):
    """The result of a pass over all chunks."""

    value: Tensor
    coefficients: Tensor  # [C, groups]


class Progress:
    """The values, coefficients or statistics of a pass, collected chunk by chunk."""

    def __init__(self, evaluation: Evaluation, plan: LinearPlan, shards: LabelShards | None = None) -> None:
        self.evaluation, self.plan, self.shards = evaluation, plan, shards
        self.within = evaluation.within(plan)
        self.values: list[Tensor] = []
        self.coefficients: list[Tensor] = []
        self.statistics: list[Tensor] = []
        self.second_pass_sums: list[Tensor] = []
        self._gathered: Tensor | None = None
        self._merged: Tensor | None = None

    def evaluate(self, logits: Tensor, part: Part) -> Tensor:
        """Collect value and coefficients of a chunk, or its statistics; return the coefficients."""
        arguments = self.evaluation.arguments(logits, part, self.plan)
        if not self.within:
            self.statistics.append(self.evaluation.ops.loss_statistics(*arguments))
            return logits.new_empty(0)
        value, coefficients, _ = self.evaluation.ops.loss_forward(True, False, *arguments)
        return self._collect(value, coefficients)

    def evaluate_in_place(self, logits: Tensor, part: Part) -> None:
        """Collect value and coefficients of a chunk, and overwrite its logits by their gradient."""
        keep = self.evaluation.options.keep
        self._collect(*self.evaluation.ops.loss_forward_(keep, *self.evaluation.arguments(logits, part, self.plan)))

    def _collect(self, value: Tensor, coefficients: Tensor) -> Tensor:
        self.values.append(value)
        self.coefficients.append(coefficients)
        return coefficients

    @property
    def needs_second_pass(self) -> bool:
        """Whether second-pass sums are needed once the statistics are complete."""
        return not self.within and _ops.counts_of(self.evaluation.options.loss).second_pass_sums > 0

    def add_second_pass(self, logits: Tensor, part: Part) -> None:
        """Collect the second-pass sums of a chunk."""
        if self._merged is None:
            self._merged = self._merge(self._all_statistics())
        arguments = self.evaluation.arguments(logits, part, self.plan)
        self.second_pass_sums.append(self.evaluation.ops.loss_second_pass(self._merged, *arguments))

    def outcome(self, dtype: torch.dtype) -> Outcome:
        """Return the result over all chunks."""
        if not self.within:
            return self._finalized(dtype)
        value, several = self.values[0], len(self.values) > 1
        if several and value.dim():
            value = torch.cat(self.values)
        elif several:
            value = torch.stack(self.values).sum(dtype=torch.float64).to(dtype)
        if self.shards is not None and not value.dim():
            value = self.shards.total(value)
        return Outcome(value, torch.cat(self.coefficients, 1) if several else self.coefficients[0])

    def _merge(self, statistics: Tensor) -> Tensor:
        merged: Tensor = self.evaluation.ops.loss_merge(statistics, self.evaluation.options.loss)
        return merged

    def _all_statistics(self) -> Tensor:
        """Return ``[parts, statistics, groups]``: a part is a chunk, or a rank with its chunks merged."""
        if self._gathered is None:
            self._gathered = torch.stack(self.statistics)
            if self.shards is not None:
                merged = self._gathered[0] if len(self.statistics) == 1 else self._merge(self._gathered)
                self._gathered = self.shards.gather(merged)
        return self._gathered

    def _all_second_pass_sums(self) -> Tensor:
        if not self.second_pass_sums:
            return self.statistics[0].new_empty(0)
        sums = torch.stack(self.second_pass_sums)
        return sums if self.shards is None else self.shards.gather(sums.sum(0))

    def _finalized(self, dtype: torch.dtype) -> Outcome:
        evaluation = self.evaluation
        return Outcome(
            *finished(
                self._all_statistics(),
                self._all_second_pass_sums(),
                evaluation.sides,
                evaluation.options,
                self.plan.rows,
                dtype,
            )
        )
