"""A call of the linear loss: its checks, its plan, and the choice of what runs it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _backends, _ops
from .. import _validation as check
from .._graph_break import uncompiled
from .._registry import Term
from ..losses._module import CheckedPass, LossModule
from ..sharding.evaluation import described
from ..sharding.shards import LabelShards, ShardedLogits, from_dtensor, is_dtensor, replicated
from .checks import check_input, check_loss, check_optional_count, check_share, check_update, planned_as
from .function import Job, run
from .plan import Demand, LinearPlan, make_plan
from .updates import FusedUpdate

__all__ = ["Settings", "evaluate", "plan_of"]


class Settings(NamedTuple):
    """The options of a head besides its parameters and its loss."""

    chunk_size: int | None = None
    memory_budget: int | None = None
    update: FusedUpdate | None = None
    shards: LabelShards | None = None


class Layer(NamedTuple):
    """The tensors of the linear layer."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None

    def empty_for(self, shards: LabelShards | None) -> bool:
        """Return whether there is nothing to compute, on any rank."""
        return self.inputs.numel() == 0 or (self.weight.shape[0] if shards is None else shards.labels) == 0

    def needs(self) -> tuple[bool, bool, bool]:
        """Return which of the three tensors need a gradient."""
        return _needs_gradient(self.inputs), _needs_gradient(self.weight), _needs_gradient(self.bias)


def _needs_gradient(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.requires_grad and torch.is_grad_enabled()


def evaluate(
    inputs: Any, weight: Any, bias: Any, targets: Any, loss: Any, sample_weight: Any, settings: Settings
) -> Tensor:
    """Check everything, then run the loss of the linear layer. A compiled model has a graph break here."""
    arguments = inputs, weight, bias, targets, loss, sample_weight, settings
    return _uncompiled(*arguments) if torch.compiler.is_compiling() else _evaluate(*arguments)


def _evaluate(
    inputs: Any, weight: Any, bias: Any, targets: Any, loss: Any, sample_weight: Any, settings: Settings
) -> Tensor:
    if is_dtensor(weight):
        (local, cut), bias = _local_weight(weight), _local_bias(weight, bias)
        weight, settings = local, settings._replace(shards=cut)
    if not (_needs_gradient(weight) or _needs_gradient(bias)):
        settings = settings._replace(update=None)
    shards, arguments = settings.shards, (inputs, weight, bias, targets, loss, sample_weight, settings)
    if shards is None:
        layer, passes = _checked(*arguments)
    else:
        layer, passes = shards.agreed(lambda: _checked(*arguments), _described, weight.device)
    leading = layer.inputs.shape[:-1]
    if any(each.call.backend == "reference" for each in passes) or layer.empty_for(shards):
        return _evaluate_unfused(layer, loss, targets, sample_weight, settings)

    flat = layer.inputs.reshape(math.prod(leading), layer.inputs.shape[-1])
    of_rows = loss.reduction == "none" and all(each.call.term.grouping == "samples" for each in passes)
    value = _run(layer._replace(inputs=flat), loss, passes, settings, leading if of_rows else None)
    return value.reshape(leading) if of_rows else value


def _checked(
    inputs: Any, weight: Any, bias: Any, targets: Any, loss: Any, sample_weight: Any, settings: Settings
) -> tuple[Layer, list[CheckedPass]]:
    inputs = check_input(inputs, weight, bias)
    check_loss(loss, planned_as(weight))
    check_optional_count("chunk_size", settings.chunk_size)
    check_optional_count("memory_budget", settings.memory_budget)
    check_share(weight, settings.shards)
    # A tensor with the shape, dtype and device of the logits that takes no memory.
    stand_in: Any = inputs.new_empty(()).expand(*inputs.shape[:-1], weight.shape[0])
    logits = stand_in if settings.shards is None else ShardedLogits(stand_in, settings.shards)
    passes = loss.passes(logits, targets, sample_weight)
    if settings.update is not None:
        reference = any(each.call.backend == "reference" for each in passes)
        check_update(settings.update, inputs, [each for each in (weight, bias) if each is not None], reference)
    return Layer(inputs, weight, bias), passes


def _described(checked: tuple[Layer, list[CheckedPass]]) -> str:
    layer, passes = checked
    wanted = "a gradient" if _needs_gradient(layer.inputs) else "no gradient"
    return "; ".join(described(each.call) for each in passes) + f"; {wanted} of the input"


def _evaluate_unfused(layer: Layer, loss: LossModule, targets: Any, sample_weight: Any, settings: Settings) -> Tensor:
    """Run the layer, then the loss: for the reference backend, and for calls without elements."""
    inputs, weight, bias = layer
    if settings.update is not None:
        inputs, weight, bias = _StepsNothing.apply(inputs, weight, bias)
    if settings.shards is None:
        return loss(F.linear(inputs, weight, bias), targets, sample_weight)
    shared = replicated(inputs, settings.shards)
    assert shared is not None
    whole: Any = ShardedLogits(F.linear(shared, weight, bias), settings.shards)
    return loss(whole, targets, sample_weight)


class _StepsNothing(torch.autograd.Function):
    """The layer of a call without elements under a fused update, which has no gradient to step with."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        return inputs.view_as(inputs), weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        return grad_outputs[0], None, None


def _local_weight(weight: Any) -> tuple[Tensor, LabelShards]:
    if weight.device_mesh.ndim != 1:
        raise ValueError(
            f"linear_weight: expected a DTensor on a mesh of one dimension, got {weight.device_mesh.ndim}; for data "
            "parallelism over another dimension, pass plain tensors, whose gradients it sums"
        )
    return from_dtensor("linear_weight", weight, 0)


def _local_bias(weight: Any, bias: Any) -> Any:
    """Return this rank's slice of the bias; the bias must be sharded like the weight."""
    if bias is None:
        return None
    if not is_dtensor(bias) or bias.placements != weight.placements or bias.device_mesh != weight.device_mesh:
        came = tuple(bias.placements) if is_dtensor(bias) else check.received(bias)
        raise ValueError(f"linear_bias: expected a DTensor of the weight's mesh and placements, got {came}")
    return from_dtensor("linear_bias", bias, 0)[0]


_uncompiled = uncompiled(
    _evaluate,
    "LinearLoss and linear_loss plan their chunks for each call, which a compiled graph cannot contain; compile with "
    "fullgraph=False, or compile the encoder and call the head outside",
)


def _run(
    layer: Layer, loss: LossModule, passes: list[CheckedPass], settings: Settings, leading: torch.Size | None
) -> Tensor:
    terms = [each.call.term for each in passes]
    calls = [each.call for each in passes]
    needs = layer.needs()
    sides = [call.tensors for call in calls]
    learned = tuple(
        (
            _needs_gradient(tensors.row_offset),
            _needs_gradient(tensors.logit_scale),
            _needs_gradient(tensors.label_offset),
        )
        for tensors in sides
    )
    training = any(needs) or any(map(any, learned))
    parts = all(_backends.takes_parts(call.backend) for call in calls)
    shape = layer.inputs.shape[0], layer.inputs.dtype
    job = Job(
        make_plan(_demand(*shape, layer.weight, layer.bias is not None, loss, terms, parts, training, settings)),
        tuple(each.coefficient for each in passes),
        tuple(call.options for call in calls),
        needs,
        learned,
        training and _in_backward(loss, terms, layer.inputs.dtype, settings.update),
        settings.update,
        settings.shards,
    )
    value, outcomes = run(*layer, [side for tensors in sides for side in tensors], job)
    loss.note(passes, outcomes, leading)
    return value


def plan_of(
    rows: int, dtype: torch.dtype, weight: Tensor, bias: bool, loss: LossModule, training: bool, settings: Settings
) -> LinearPlan:
    """Return the plan of a call with this many rows, multiplied in this dtype."""
    kind = planned_as(weight)
    terms = loss.terms_on(kind)
    parts = all(_backends.takes_parts(_backends.choose(kind, term.spec.name)) for term in terms)
    return make_plan(_demand(rows, dtype, weight, bias, loss, terms, parts, training, settings))


def _in_backward(loss: LossModule, terms: list[Term], dtype: torch.dtype, update: FusedUpdate | None) -> bool:
    """Return whether the gradient is more than a gradient from the forward times ``grad_output``."""
    several = loss.reduction == "none" and any(term.grouping != "micro" for term in terms)
    return several or dtype == torch.float16 or update is not None


def _demand(
    rows: int,
    dtype: torch.dtype,
    weight: Tensor,
    bias: bool,
    loss: LossModule,
    terms: list[Term],
    parts: bool,
    training: bool,
    settings: Settings,
) -> Demand:
    counts = [_ops.counts_of(term.spec.name) for term in terms]
    update = settings.update if training else None
    sharded = settings.shards is not None and settings.shards.ranks > 1
    rows_alone = ("element",) if sharded else ("element", "samples")
    return Demand(
        rows=rows,
        labels=weight.shape[0],
        features=weight.shape[1],
        itemsize=dtype.itemsize,
        weight_itemsize=weight.dtype.itemsize,
        bias=bias,
        device_type=planned_as(weight),
        passes=len(terms),
        within_rows=all(term.grouping in rows_alone for term in terms),
        within_labels=all(term.grouping in ("element", "macro") for term in terms),
        sharded=sharded,
        parts=parts,
        second_pass_sums=any(count.second_pass_sums for count in counts),
        statistics=sum(count.statistics for count in counts),
        training=training,
        in_backward=_in_backward(loss, terms, dtype, update),
        scratch=0 if update is None else update.scratch(weight),
        strip=0 if update is None else update.strip(weight),
        memory_budget=settings.memory_budget,
        chunk_size=settings.chunk_size,
    )
