"""A loss over chunks of its logits: what each chunk is told, and what the chunks come to together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .. import _ops
from .._call import Options, Sides, shared_arguments
from ..sharding.evaluation import finished
from ..sharding.shards import LabelShards
from .plan import LinearPlan, Part

__all__ = ["LEARNED", "Evaluation", "Outcome", "Progress", "of_groups", "zero_sums"]

# Of Sides, what may have a gradient: in the order of loss_backward's results.
LEARNED: Final = ("row_offset", "logit_scale", "label_offset")
_OF_LABELS: Final = ("weight", "label_offset", "label_parameter")
_OF_ROWS: Final = ("targets", "sample_weight")


class Evaluation(NamedTuple):
    """One of the passes over the logits that make up a loss."""

    coefficient: float
    sides: Sides
    options: Options
    learned: tuple[bool, bool, bool] = (False, False, False)  # of LEARNED, what wants a gradient

    @property
    def grouping(self) -> str:
        """Of ``_ops.GROUPINGS``."""
        return _ops.GROUPINGS[self.options.grouping]

    @property
    def ops(self) -> Any:
        """The engine's."""
        return getattr(torch.ops, self.options.namespace)

    def within(self, plan: LinearPlan) -> bool:
        """Whether none of its groups leaves a chunk."""
        if plan.chunks == 1 and not plan.sharded:
            return True
        if plan.by == "rows" and plan.chunks > 1:
            return self.grouping == "element" or (self.grouping == "samples" and not plan.sharded)
        return self.grouping in ("element", "macro")

    def adapted(self, plan: LinearPlan, like: Tensor) -> Evaluation:
        """For chunks of rows a mean is a sum, divided by how much there is in all."""
        reduction = _ops.REDUCTIONS[self.options.reduction]
        if plan.by == "labels" or plan.chunks == 1 or reduction in ("none", "sum"):
            return self
        each = self.all_labels(plan) if reduction == "mean" and self.grouping == "element" else 1
        count = torch.full((), plan.rows * each, dtype=_ops.compute_dtype(like), device=like.device)
        total = self.options._replace(reduction=_ops.REDUCTIONS.index("sum"))
        return self._replace(sides=self.sides._replace(normalizer=count), options=total)

    def all_labels(self, plan: LinearPlan) -> int:
        """Of all ranks, where the plan's are one's."""
        return plan.labels if self.options.all_labels is None else self.options.all_labels

    def arguments(self, logits: Tensor, part: Part, plan: LinearPlan) -> tuple[Any, ...]:
        """What the ops begin with, of a chunk: views, and no copies."""
        sides, options = self.sides, self.options
        if plan.chunks > 1 and plan.by == "labels":
            sides = _cut(sides, _OF_LABELS, part.labels)
            if sides.targets is not None:
                sides = sides._replace(targets=sides.targets[:, part.labels])
            first = options.first_label + part.labels.start
            options = options._replace(first_label=first, all_labels=self.all_labels(plan))
        elif plan.chunks > 1:
            sides = _cut(sides, _OF_ROWS, part.rows)
            if sides.crow_indices is not None:
                # Its entries are places in col_indices still.
                sides = sides._replace(crow_indices=sides.crow_indices[part.rows.start : part.rows.stop + 1])
            if sides.row_offset is not None and sides.row_offset.dim():
                sides = sides._replace(row_offset=sides.row_offset[part.rows])
        return (logits, *shared_arguments(sides, options))


def _cut(sides: Sides, names: Sequence[str], own: slice) -> Sides:
    return sides._replace(**{name: side[own] for name in names if (side := getattr(sides, name)) is not None})


def of_groups(tensor: Tensor, grouping: str, part: Part) -> Tensor:
    """The chunk's share of what has one column a group: coefficients, the gradient of the loss."""
    if tensor.dim() == 0 or grouping in ("element", "micro"):
        return tensor
    return tensor[..., part.rows if grouping == "samples" else part.labels].contiguous()


def zero_sums(own: Evaluation, plan: LinearPlan, like: Tensor) -> list[Tensor | None]:
    """Room for the gradients of what a pass has beside the logits."""
    sizes = ((plan.rows,), (), (plan.labels,))
    return [
        like.new_zeros(size, dtype=_ops.compute_dtype(like)) if wanted else None
        for wanted, size in zip(own.learned, sizes, strict=True)
    ]


class Outcome(NamedTuple):
    """What a pass comes to over all chunks."""

    value: Tensor
    coefficients: Tensor  # [C, groups]


class Progress:
    """A pass's values, coefficients or statistics, as chunk after chunk adds its own."""

    def __init__(self, own: Evaluation, plan: LinearPlan, shards: LabelShards | None = None) -> None:
        self.own, self.plan, self.shards = own, plan, shards
        self.within = own.within(plan)
        self.values: list[Tensor] = []
        self.coefficients: list[Tensor] = []
        self.statistics: list[Tensor] = []
        self.late: list[Tensor] = []
        self._gathered: Tensor | None = None
        self._merged: Tensor | None = None

    def look(self, logits: Tensor, part: Part) -> Tensor:
        """Value and coefficients of a chunk, or its statistics; the coefficients."""
        arguments = self.own.arguments(logits, part, self.plan)
        if not self.within:
            self.statistics.append(self.own.ops.loss_statistics(*arguments))
            return logits.new_empty(0)
        value, coefficients, _ = self.own.ops.loss_forward(*arguments, True, False)
        return self._took(value, coefficients)

    def take(self, logits: Tensor, part: Part) -> None:
        """The same, and the gradient in the logits' place."""
        keep = self.own.options.keep
        self._took(*self.own.ops.loss_forward_(*self.own.arguments(logits, part, self.plan), keep))

    def _took(self, value: Tensor, coefficients: Tensor) -> Tensor:
        self.values.append(value)
        self.coefficients.append(coefficients)
        return coefficients

    @property
    def wants_another_look(self) -> bool:
        """Whether late sums are to be taken, once the statistics are complete."""
        return not self.within and _ops.counts_of(self.own.options.loss).late_sums > 0

    def look_again(self, logits: Tensor, part: Part) -> None:
        """Late sums of a chunk."""
        if self._merged is None:
            self._merged = self._merge(self._all_statistics())
        arguments = self.own.arguments(logits, part, self.plan)
        self.late.append(self.own.ops.loss_late(*arguments, self._merged))

    def outcome(self, dtype: torch.dtype) -> Outcome:
        """Of all chunks together."""
        if not self.within:
            return self._finished(dtype)
        value, several = self.values[0], len(self.values) > 1
        if several and value.dim():
            value = torch.cat(self.values)
        elif several:
            value = torch.stack(self.values).sum(dtype=torch.float64).to(dtype)
        if self.shards is not None and not value.dim():
            value = self.shards.total(value)
        return Outcome(value, torch.cat(self.coefficients, 1) if several else self.coefficients[0])

    def _merge(self, statistics: Tensor) -> Tensor:
        merged: Tensor = self.own.ops.loss_merge(statistics, self.own.options.loss)
        return merged

    def _all_statistics(self) -> Tensor:
        """``[parts, statistics, groups]``: parts are chunks, or ranks that have merged their own."""
        if self._gathered is None:
            self._gathered = torch.stack(self.statistics)
            if self.shards is not None:
                own = self._gathered[0] if len(self.statistics) == 1 else self._merge(self._gathered)
                self._gathered = self.shards.gather(own)
        return self._gathered

    def _all_late(self) -> Tensor:
        if not self.late:
            return self.statistics[0].new_empty(0)
        late = torch.stack(self.late)
        return late if self.shards is None else self.shards.gather(late.sum(0))

    def _finished(self, dtype: torch.dtype) -> Outcome:
        own = self.own
        return Outcome(
            *finished(self._all_statistics(), self._all_late(), own.sides, own.options, self.plan.rows, dtype)
        )
