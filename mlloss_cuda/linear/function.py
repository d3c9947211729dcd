"""The autograd Function of the head.

Gradients are formed in the forward, as the losses do, and multiplied in the backward: each chunk of logits is
there once, and an element-wise loss needs three matrix products. They are formed in the backward where they
depend on ``grad_output`` in another way: a loss for each row or label, float16, and weights that step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._autograd import keeps_graph, once
from .._call import Options, Sides
from ..sharding.shards import LabelShards
from .evaluation import LEARNED, Evaluation, Outcome
from .plan import LinearPlan
from .sweep import Head, WeightGradients
from .updates import FusedUpdate, NoStep

__all__ = ["Job", "run"]

_SIDES = len(Sides._fields)


class Job(NamedTuple):
    """What is no tensor."""

    plan: LinearPlan
    coefficients: tuple[float, ...]
    options: tuple[Options, ...]
    needs: tuple[bool, bool, bool]  # gradients of input, weight, bias
    learned: tuple[tuple[bool, bool, bool], ...]  # of each pass
    late: bool  # in the backward
    update: FusedUpdate | None
    shards: LabelShards | None = None  # labels are one rank's

    def head(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, sides: Sequence[Tensor | None]) -> Head:
        """Of one call; ``sides`` of all passes, one after another."""
        evaluations = [
            Evaluation(coefficient, Sides(*sides[i * _SIDES : (i + 1) * _SIDES]), options, learned)
            for i, (coefficient, options, learned) in enumerate(
                zip(self.coefficients, self.options, self.learned, strict=True)
            )
        ]
        return Head(inputs, weight, bias, evaluations, self.plan, self.needs[0], self.shards)

    @property
    def anything(self) -> bool:
        """Whether anything wants a gradient."""
        return any(self.needs) or any(map(any, self.learned))


def run(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, sides: Sequence[Tensor | None], job: Job
) -> tuple[Tensor, list[Outcome]]:
    """The loss, differentiable once; and each pass's own outcome, detached."""
    if not job.anything:
        with _plainly(inputs):
            outcomes, _ = job.head(inputs, weight, bias, sides).values()
        return _total(outcomes, job), outcomes
    value, _, *rest = _LinearLoss.apply(inputs, weight, bias, *sides, job)
    passes = len(job.options)
    return value, [Outcome(*pair) for pair in zip(rest[:passes], rest[passes : 2 * passes], strict=True)]


def _plainly(inputs: Tensor) -> torch.autocast:
    """Dtypes have been settled: autocast is to leave them."""
    return torch.autocast(inputs.device.type, enabled=False)


def _total(outcomes: Sequence[Outcome], job: Job) -> Tensor:
    parts = [coefficient * outcome.value for coefficient, outcome in zip(job.coefficients, outcomes, strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


class _LinearLoss(torch.autograd.Function):
    """The value, an anchor for :func:`once`; then, for no gradient, outcomes, and what the backward needs of them."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        *sides, job = arguments
        head: Head = job.head(inputs, weight, bias, sides)
        kept: list[Tensor | None]
        with _plainly(inputs):
            if job.late:
                outcomes, logits = head.values()
                kept = [logits, _finite(inputs, _total(outcomes, job), job)]
            else:
                sink = WeightGradients(head, *job.needs[1:])
                outcomes, of_input, learned = head.everything(sink)
                kept = [of_input, *sink.results(), *(sum_ for sums in learned for sum_ in sums)]
        value = _total(outcomes, job)
        own = [outcome.value.clone() for outcome in outcomes]
        return value, value.new_empty(0), *own, *(outcome.coefficients for outcome in outcomes), *_there(kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, weight, bias, *sides, job = inputs
        _, anchor, *rest = output
        passes = len(job.options)
        ctx.mark_non_differentiable(*rest)
        ctx.set_materialize_grads(False)
        ctx.job = job
        if not job.late:
            ctx.save_for_backward(anchor, *rest[2 * passes :])
            return
        if job.update is not None:
            # Not saved: they are to be written, and say themselves whether someone has been before.
            ctx.stepped = (weight, bias, weight._version)
            weight = bias = None
        ctx.save_for_backward(anchor, features, weight, bias, *sides, *rest[passes:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        job: Job = ctx.job
        nothing = (None,) * (3 + _SIDES * len(job.options) + 1)
        if grad_outputs[0] is None:
            return nothing
        if job.late:
            return _formed(ctx, grad_outputs[0])
        return _scaled(ctx, grad_outputs[0])


def _there(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _arranged(job: Job, gradients: Sequence[Tensor | None], anchor: Tensor) -> tuple[Any, ...]:
    """As the Function's inputs: those of input, weight, bias, then of what each pass learns."""
    tied = [None if gradient is None else once(gradient, anchor) for gradient in gradients]
    result: list[Any] = tied[:3]
    for i in range(len(job.options)):
        own = dict(zip(LEARNED, tied[3 + 3 * i : 6 + 3 * i], strict=True))
        result += Sides(**own)
    return *result, None


def _scaled(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    """What the forward left, times ``grad_output``; in place, unless this backward may come again."""
    job: Job = ctx.job
    anchor, *saved = ctx.saved_tensors
    ops = getattr(torch.ops, job.options[0].namespace)
    wanted = [*job.needs, *(own for learned in job.learned for own in learned)]
    left = iter(saved)
    gradients: list[Tensor | None] = []
    with torch.no_grad():
        for want in wanted:
            if not want:
                gradients.append(None)
                continue
            gradient = next(left)
            if keeps_graph():
                gradients.append(ops.scale_gradient(gradient, grad_output))
            else:
                ops.scale_gradient_(gradient, grad_output)
                gradients.append(gradient.detach())
    return _arranged(job, gradients, anchor)


def _formed(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    """Gradients from logits that are kept or formed again; or steps in place of those of weight and bias."""
    job: Job = ctx.job
    passes = len(job.options)
    anchor, inputs, weight, bias, *rest = ctx.saved_tensors
    sides, rest = rest[: passes * _SIDES], rest[passes * _SIDES :]
    outcomes = [Outcome(anchor, coefficients) for coefficients in rest[:passes]]
    logits = rest[passes] if job.plan.keeps_logits else None
    scale = None
    if job.update is not None:
        weight, bias = _to_be_stepped(ctx)
        scale = job.update.loss_scale(grad_output.device)
    if scale is not None:
        grad_output = grad_output / scale
    head = job.head(inputs, weight, bias, sides)
    if job.update is None:
        sink: Any = WeightGradients(head, *job.needs[1:])
    elif scale is not None and not bool(_looked_at(rest, job) & grad_output.isfinite().all()):
        sink = NoStep()
    else:
        sink = job.update.begin()
    with torch.no_grad(), _plainly(inputs):
        of_input, learned = head.gradients(outcomes, grad_output, sink, logits, keeps_graph())
        of_weight, of_bias = sink.results() if isinstance(sink, WeightGradients) else (None, None)
        gradients = [of_input, of_weight, of_bias, *(sum_ for sums in learned for sum_ in sums)]
        if scale is not None:  # other optimizers unscale theirs
            gradients = [None if each is None else each * scale for each in gradients]
    return _arranged(job, gradients, anchor)


def _looked_at(kept: Sequence[Tensor], job: Job) -> Tensor | bool:
    """What :func:`_finite` came to in the forward; True where there was no scaler then."""
    return kept[-1] if len(kept) > len(job.options) + int(job.plan.keeps_logits) else True


def _finite(inputs: Tensor, value: Tensor, job: Job) -> Tensor | None:
    """Whether a step by a scaled loss may be taken, a 0-d bool tensor; None where no loss is scaled."""
    if job.update is None or job.update.grad_scaler is None:
        return None
    return inputs.isfinite().all() & value.isfinite().all()


def _to_be_stepped(ctx: Any) -> tuple[Tensor, Tensor | None]:
    weight, bias, version = ctx.stepped
    if weight._version != version:
        raise RuntimeError(
            "fused_update: the weights have changed since this forward. Each forward has one backward, which steps "
            "them, and it comes before the next; add up losses of one forward, or put more rows into it."
        )
    return weight, bias
