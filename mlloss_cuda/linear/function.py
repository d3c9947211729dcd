"""The autograd Function of the head.

Gradients are formed in the forward, as in the losses, and multiplied by ``grad_output`` in the backward: each chunk
of logits is formed once, and an element-wise loss needs three matrix products. They are formed in the backward if a
multiplication is not enough: a loss for each row or label, float16, and weights that backward itself updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._autograd import is_one, keeps_graph, once
from .._call import LEARNED, Options, TensorArguments
from .._positional import positional
from ..sharding.shards import LabelShards
from .evaluation import Evaluation, Outcome
from .plan import LinearPlan
from .sweep import Head, WeightGradients
from .updates import FusedUpdate, NoStep

__all__ = ["Job", "run"]

_SIDES = len(TensorArguments._fields)


class Job(NamedTuple):
    """The arguments of the Function that are not tensors."""

    plan: LinearPlan
    coefficients: tuple[float, ...]
    options: tuple[Options, ...]
    needs: tuple[bool, bool, bool]  # which of input, weight and bias need a gradient
    learned: tuple[tuple[bool, bool, bool], ...]  # which of LEARNED need a gradient, for each pass
    in_backward: bool  # gradients are formed in the backward
    update: FusedUpdate | None
    shards: LabelShards | None = None  # not None: this rank holds a part of the labels

    def head(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, sides: Sequence[Tensor | None]) -> Head:
        """Return the head of one call; ``sides`` are those of all passes, concatenated."""
        evaluations = [
            Evaluation(coefficient, TensorArguments(*sides[i * _SIDES : (i + 1) * _SIDES]), options, learned)
            for i, (coefficient, options, learned) in enumerate(
                zip(self.coefficients, self.options, self.learned, strict=True)
            )
        ]
        return Head(inputs, weight, bias, evaluations, self.plan, self.needs[0], self.shards)

    @property
    def needs_any(self) -> bool:
        """Whether any tensor needs a gradient."""
        return any(self.needs) or any(map(any, self.learned))


def run(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, sides: Sequence[Tensor | None], job: Job
) -> tuple[Tensor, list[Outcome]]:
    """Return the loss, differentiable once, and the detached outcome of each pass."""
    if not job.needs_any:
        with _autocast_disabled(inputs):
            outcomes, _ = job.head(inputs, weight, bias, sides).values()
        return _total(outcomes, job), outcomes
    value, _, *rest = _apply(inputs, weight, bias, *sides, job)
    passes = len(job.options)
    return value, [Outcome(*pair) for pair in zip(rest[:passes], rest[passes : 2 * passes], strict=True)]


def _autocast_disabled(inputs: Tensor) -> AbstractContextManager[Any]:
    """Disable autocast, if it is enabled; its dtypes have already been applied."""
    kind = inputs.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _total(outcomes: Sequence[Outcome], job: Job) -> Tensor:
    parts = [coefficient * outcome.value for coefficient, outcome in zip(job.coefficients, outcomes, strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


class _LinearLoss(torch.autograd.Function):
    """The outputs are the value, an anchor for :func:`once`, the outcomes, and tensors that the backward reads.

    Only the value is differentiable.
    """

    @staticmethod
    @positional
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        *sides, job = arguments
        head: Head = job.head(inputs, weight, bias, sides)
        kept: list[Tensor | None]
        with _autocast_disabled(inputs):
            if job.in_backward:
                outcomes, logits = head.values()
                kept = [logits, _all_finite(inputs, _total(outcomes, job), job)]
            else:
                sink = WeightGradients(head, *job.needs[1:])
                outcomes, of_input, learned = head.values_and_gradients(sink)
                kept = [of_input, *sink.results(), *(sum_ for sums in learned for sum_ in sums)]
        value = _total(outcomes, job)
        own = [outcome.value.clone() for outcome in outcomes]
        return value, value.new_empty(0), *own, *(outcome.coefficients for outcome in outcomes), *_present(kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, weight, bias, *sides, job = inputs
        _, anchor, *rest = output
        passes = len(job.options)
        ctx.mark_non_differentiable(*rest)
        ctx.set_materialize_grads(False)
        ctx.job = job
        if not job.in_backward:
            ctx.save_for_backward(anchor, *rest[2 * passes :])
            return
        if job.update is not None:
            # Weight and bias are not saved, because backward writes to them; their versions tell if they have changed.
            ctx.parameters = (weight, bias, _versions(weight, bias))
            weight = bias = None
        ctx.save_for_backward(anchor, features, weight, bias, *sides, *rest[passes:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        job: Job = ctx.job
        nothing = (None,) * (3 + _SIDES * len(job.options) + 1)
        if grad_outputs[0] is None:
            return nothing
        if job.in_backward:
            return _form_gradients(ctx, grad_outputs[0])
        return _scale_gradients(ctx, grad_outputs[0])


# The apply method of the base class neither binds arguments nor finds out whether functorch is active.
_apply_eagerly = super(torch.autograd.Function, _LinearLoss).apply


def _apply(*arguments: Any) -> Any:
    """Return the outputs of ``_LinearLoss``."""
    if torch._C._are_functorch_transforms_active():
        return _LinearLoss.apply(*arguments)
    unwrapped = [torch._C._functorch.unwrap_if_dead(x) if isinstance(x, Tensor) else x for x in arguments]
    return _apply_eagerly(*unwrapped)


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _as_function_inputs(job: Job, gradients: Sequence[Tensor | None], anchor: Tensor) -> tuple[Any, ...]:
    """Arrange gradients (input, weight, bias, then LEARNED of each pass) like the Function's inputs."""
    tied = [None if gradient is None else once(gradient, anchor) for gradient in gradients]
    result: list[Any] = tied[:3]
    for i in range(len(job.options)):
        own = dict(zip(LEARNED, tied[3 + 3 * i : 6 + 3 * i], strict=True))
        result += TensorArguments(**own)
    return *result, None


def _scale_gradients(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    """Multiply the forward's gradients by ``grad_output``, in place unless the graph is kept."""
    job: Job = ctx.job
    anchor, *saved = ctx.saved_tensors
    ops = getattr(torch.ops, job.options[0].namespace)
    one, kept = is_one(grad_output), keeps_graph()
    with torch.no_grad():
        if kept:
            saved = [x.clone() if one else ops.scale_gradient(x, grad_output) for x in saved]
        elif not one:
            for gradient in saved:
                ops.scale_gradient_(gradient, grad_output)
    remaining = iter(saved)
    needed = (*job.needs, *(needs for learned in job.learned for needs in learned))
    gradients = [next(remaining) if needs else None for needs in needed]
    return _as_function_inputs(job, gradients, anchor)


def _form_gradients(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    """Form gradients from logits that are kept or formed again; a fused update steps weight and bias instead."""
    job: Job = ctx.job
    passes = len(job.options)
    anchor, inputs, weight, bias, *rest = ctx.saved_tensors
    sides, rest = rest[: passes * _SIDES], rest[passes * _SIDES :]
    outcomes = [Outcome(anchor, coefficients) for coefficients in rest[:passes]]
    logits = rest[passes] if job.plan.keeps_logits else None
    scale = None
    if job.update is not None:
        weight, bias = _parameters_to_step(ctx)
        scale = job.update.loss_scale(grad_output.device)
    if scale is not None:
        grad_output = grad_output / scale
    head = job.head(inputs, weight, bias, sides)
    if job.update is None:
        sink: Any = WeightGradients(head, *job.needs[1:])
    elif scale is not None and not bool(_was_finite(rest, job) & grad_output.isfinite().all()):
        sink = NoStep()
    else:
        sink = job.update.begin(*job.needs[1:])
    with torch.no_grad(), _autocast_disabled(inputs):
        of_input, learned = head.gradients(outcomes, grad_output, sink, logits, keeps_graph())
        of_weight, of_bias = sink.results() if isinstance(sink, WeightGradients) else (None, None)
        gradients = [of_input, of_weight, of_bias, *(sum_ for sums in learned for sum_ in sums)]
        if scale is not None:  # other optimizers unscale their gradients
            gradients = [None if each is None else each * scale for each in gradients]
    return _as_function_inputs(job, gradients, anchor)


def _was_finite(kept: Sequence[Tensor], job: Job) -> Tensor | bool:
    """Return the forward's result of :func:`_all_finite`; True if it had no scaler."""
    return kept[-1] if len(kept) > len(job.options) + int(job.plan.keeps_logits) else True


def _all_finite(inputs: Tensor, value: Tensor, job: Job) -> Tensor | None:
    """Return whether a scaled loss may be stepped by, a 0-d bool tensor; None without a scaler."""
    if job.update is None or job.update.grad_scaler is None:
        return None
    return inputs.isfinite().all() & value.isfinite().all()


def _versions(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    return weight._version, 0 if bias is None else bias._version


def _parameters_to_step(ctx: Any) -> tuple[Tensor, Tensor | None]:
    weight, bias, versions = ctx.parameters
    if _versions(weight, bias) != versions:
        raise RuntimeError(
            "fused_update: the weights have changed since this forward. Each forward has one backward, which updates "
            "them and must run before the next forward; sum the losses of one forward, or put more rows into it."
        )
    return weight, bias
