"""The autograd Functions over the ops, one op for each pass, for every loss and engine.

The forward computes the gradient if that costs least: if the result is a scalar, only the logits are
differentiated, and their dtype can hold a gradient before a GradScaler's factor multiplies it (not float16).
Otherwise the backward reads the logits once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import _ops
from ._call import Options, TensorArguments, shared_arguments
from ._positional import positional
from ._vmap import check_not_batched, losses_of_samples

__all__ = ["backward_from_logits", "fused_loss", "fused_pair", "is_one", "keeps_graph", "once", "unit_grad_output"]


class _Once(torch.autograd.Function):
    """A tie between a gradient and the loss's node, so that differentiating the gradient raises a clear error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        raise RuntimeError(
            "mlloss_cuda losses are differentiable once: their gradient has no gradient of its own. "
            'For a second derivative, compute the loss under use_backend("reference").'
        )


def once(gradient: Tensor, anchor: Tensor) -> Tensor:
    """Return the gradient, tied to the anchor if someone may differentiate it."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    return _Once.apply(gradient, anchor)


def keeps_graph() -> bool:
    """Return whether this backward may run again: True under compile and functorch, where it is unknown."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return torch._C._autograd._get_current_graph_task_keep_graph()


# The keys are dtype, device and the stream that filled the tensor. The tensors are kept, so their ids stay unique.
_ones: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}
_one_ids: set[int] = set()


def unit_grad_output(loss: Tensor) -> Tensor:
    """Return a 1 that starts the backward pass without a launch: ``loss.backward(unit_grad_output(loss))``.

    ``loss.backward()`` fills a tensor of ones on every call, and the loss's backward then reads this factor on the
    GPU. The tensor of this function is filled once for each dtype, device and stream, and the losses of this package
    recognise it: their backward launches nothing if the forward has computed the gradient. For small batches,
    launches dominate the cost of a step.

    Args:
        loss: a reduced loss of this package, or any other 0-d tensor.

    Returns:
        A 0-d tensor of 1 in the dtype and on the device of ``loss``. It is shared between callers. Changing it in
        place is allowed; the next caller then gets a new one.

    Raises:
        TypeError: ``loss`` is not a tensor.
        ValueError: ``loss`` has dimensions.

    Example:
        >>> import torch
        >>> from mlloss_cuda import unit_grad_output, zlpr_loss
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> loss = zlpr_loss(logits, torch.zeros(2, 3))
        >>> loss.backward(unit_grad_output(loss))
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss: expected a tensor, got {type(loss).__name__}")
    if loss.dim() != 0:
        raise ValueError(f"loss: expected a 0-d tensor, got shape {tuple(loss.shape)}")
    device = loss.device
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return torch.ones_like(loss, requires_grad=False)  # a tensor that a graph fills belongs to the graph
    stream = 0 if device.type == "cpu" else torch.accelerator.current_stream(device).stream_id
    unit = _ones.get((loss.dtype, device, stream))
    if unit is None or unit._version:
        with torch.inference_mode(False), torch.no_grad():
            unit = torch.ones((), dtype=loss.dtype, device=device)
        if (former := _ones.get((loss.dtype, device, stream))) is not None:
            _one_ids.discard(id(former))
        _ones[loss.dtype, device, stream] = unit
        _one_ids.add(id(unit))
    return unit


def _run_forward(
    logits: Tensor, tensors: TensorArguments, options: Options, form: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the forward op: the value, the coefficients, and the gradient if ``form`` and not ``in_place``."""
    ops = getattr(torch.ops, options.namespace)
    if form and options.in_place:
        value, coefficients = ops.loss_forward_(options.keep, logits, *shared_arguments(tensors, options))
        torch.autograd.graph.increment_version(logits)
        return value, coefficients, logits.new_empty(0)
    results: tuple[Tensor, Tensor, Tensor] = ops.loss_forward(
        options.keep or not form, form, logits, *shared_arguments(tensors, options)
    )
    return results


def _save(
    ctx: Any,
    logits: Tensor,
    tensors: Iterable[Any],
    options: Options,
    form: bool,
    anchor: Tensor,
    coefficients: Tensor,
    gradient: Tensor,
) -> None:
    """Save what the backward reads: the gradient if the forward formed it, else everything that it is formed from."""
    ctx.set_materialize_grads(False)
    ctx.options, ctx.form = options, form
    if form:
        ctx.save_for_backward(anchor, logits if options.in_place else gradient)
    else:
        ctx.save_for_backward(anchor, logits, coefficients, *tensors)


class _EagerLoss(torch.autograd.Function):
    """The loss of ``[B, L]`` logits, differentiable in logits, logit_scale, label_offset and row_offset.

    It serves ordinary eager calls with as little host time as possible. ``learned`` holds logit_scale, label_offset
    and row_offset if one of them requires a gradient, else nothing. The outputs are those of ``_FusedLoss`` without
    the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, call: tuple[TensorArguments, Options, bool], *learned: Tensor | None
    ) -> tuple[Tensor, ...]:
        tensors, options, form = call
        value, coefficients, gradient = _run_forward(logits, tensors, options, form)
        own = options.keep or not form
        anchor = value.new_empty(0) if own else coefficients
        _save(ctx, logits, tensors, options, form, anchor, coefficients, gradient)
        if own:
            ctx.mark_non_differentiable(coefficients)
            return value, coefficients, anchor
        return value, coefficients

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return (None,) * len(ctx.needs_input_grad)
        if ctx.form:
            return _scaled(ctx, grad_output)[0], None
        need_logits, _, *learned = ctx.needs_input_grad
        gradient, *others = _from_logits(ctx, grad_output, (need_logits, *(learned or (False, False, False))))
        return gradient, None, *(others if learned else ())


# The apply method of the base class does not spend Python calls on finding out whether functorch is active.
_apply_eagerly = super(torch.autograd.Function, _EagerLoss).apply


class _FusedLoss(torch.autograd.Function):
    """The same loss for ``torch.compile`` and functorch, which need every tensor as a separate argument or result.

    The last output is an anchor: an empty tensor that belongs to this node. It is saved instead of the loss,
    because the user may change the loss in place (``loss /= n``). If the forward computes the gradient and the
    caller keeps no coefficients, the op's empty coefficients are the anchor, and the gradient is the last output.
    """

    @staticmethod
    @positional
    def forward(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, options, form = arguments
        results = _run_forward(logits, TensorArguments(*tensors), options, form)
        if form and not options.keep:
            return results
        return *results, results[0].new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, *tensors, options, form = inputs
        _, coefficients, gradient, *own = output
        anchor = own[0] if own else coefficients
        ctx.mark_non_differentiable(gradient, *([coefficients] if own else []))
        _save(ctx, logits, tensors, options, form, anchor, coefficients, gradient)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad_output = grad_outputs[0]
        if not ctx.form:
            return backward_from_logits(ctx, grad_output)
        none = (None,) * (len(TensorArguments._fields) + 2)
        if grad_output is None:
            return None, *none
        return *_scaled(ctx, grad_output), *none

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, *arguments: Any) -> Any:
        *tensors, options, form = arguments
        return losses_of_samples(
            info.batch_size, in_dims, logits, TensorArguments(*tensors), options, form, _each, _of_each
        )


def _each(logits: Tensor, tensors: TensorArguments, options: Options) -> tuple[Tensor, Tensor]:
    """Return the loss of each row or element, and the coefficients."""
    return _FusedLoss.apply(logits, *tensors, options, False)[:2]


def _of_each(
    logits: Tensor, tensors: TensorArguments, options: Options, coefficients: Tensor, grad_output: Tensor
) -> Tensor:
    """Return the gradient of the logits, from a ``grad_output`` for each row or element."""
    check_not_batched(logits, coefficients, *tensors)
    ops, shared = getattr(torch.ops, options.namespace), shared_arguments(tensors, options)
    return ops.loss_backward(coefficients, grad_output, True, False, False, False, logits, *shared)[0]


def _scaled(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients that the forward computed, times ``grad_output``."""
    options: Options = ctx.options
    if options.in_place:
        _spend(ctx)
    anchor, gradient, *second = ctx.saved_tensors  # read once: hooks that unpack them may allow no second time
    if not torch.is_grad_enabled():
        product = _product(options, gradient, grad_output)
        return (product, _product(options, second[0], grad_output)) if second else (product,)
    with torch.no_grad():
        products = [_product(options, factor, grad_output) for factor in (gradient, *second)]
    return tuple(once(product, anchor) for product in products)


def _product(options: Options, gradient: Tensor, grad_output: Tensor) -> Tensor:
    """Return ``gradient * grad_output``, in the gradient's memory unless the backward may run again."""
    if is_one(grad_output):
        if options.in_place:
            return gradient.detach()
        return gradient.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else gradient
    compiling = torch.compiler.is_dynamo_compiling()
    # vmap, and autograd's is_grads_batched, have a rule for the plain product.
    if torch._C._are_functorch_transforms_active() or (
        not compiling and torch._C._functorch.is_legacy_batchedtensor(grad_output)
    ):
        # The factor gets a dimension, because torch's rule for 0-d factors raises if there are no samples.
        return (gradient * grad_output.reshape(1)).to(gradient.dtype)
    ops = getattr(torch.ops, options.namespace)
    # torch.compile does not know whether the graph is kept.
    if (compiling or torch._C._autograd._get_current_graph_task_keep_graph()) and not options.in_place:
        product: Tensor = ops.scale_gradient(gradient, grad_output)
        return product
    ops.scale_gradient_(gradient, grad_output)
    return gradient.detach() if options.in_place else gradient


def is_one(grad_output: Tensor) -> bool:
    """Return whether a 0-d ``grad_output`` is known to be 1 without a read from a device."""
    if (
        torch.compiler.is_dynamo_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(grad_output)
    ):
        return False
    if grad_output.is_cpu and type(grad_output) is Tensor and torch._C._len_torch_dispatch_stack() == 0:
        return grad_output.item() == 1.0  # which takes less time than an op; a mode may trace tensors without values
    return id(grad_output) in _one_ids and grad_output._version == 0  # an unchanged tensor of unit_grad_output


def _spend(ctx: Any) -> None:
    """Mark an in-place gradient as used, and raise if it was used before."""
    if not ctx.options.in_place:
        return
    if getattr(ctx, "spent", False):
        raise RuntimeError("inplace_backward: the logits hold a single gradient, which serves one backward only")
    ctx.spent = True


def backward_from_logits(ctx: Any, grad_output: Tensor | None) -> tuple[Any, ...]:
    """Return the gradients for a Function of ``(logits, *tensors, options, any)``, the last two without gradients."""
    if grad_output is None:
        return (None,) * (len(TensorArguments._fields) + 3)
    need = dict(zip(TensorArguments._fields, ctx.needs_input_grad[1:], strict=False))
    needs = ctx.needs_input_grad[0], need["logit_scale"], need["label_offset"], need["row_offset"]
    gradient, scale, label, row = _from_logits(ctx, grad_output, needs)
    return gradient, *TensorArguments(logit_scale=scale, label_offset=label, row_offset=row), None, None


def _from_logits(
    ctx: Any, grad_output: Tensor, needs: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of logits, logit_scale, label_offset and row_offset, from what was saved."""
    need_logits, need_scale, need_label, need_row = needs
    _spend(ctx)
    anchor, logits, coefficients, *given = ctx.saved_tensors
    options: Options = ctx.options
    tensors = TensorArguments(*given)
    check_not_batched(logits, coefficients, *tensors)
    wanted = need_row, need_scale, need_label
    ops, shared = getattr(torch.ops, options.namespace), shared_arguments(tensors, options)
    with torch.no_grad():
        if need_logits and options.in_place:
            row, scale, label = ops.loss_backward_(coefficients, grad_output, *wanted, logits, *shared)
            torch.autograd.graph.increment_version(logits)
            gradient = logits.detach()
        else:
            gradient, row, scale, label = ops.loss_backward(
                coefficients, grad_output, need_logits, *wanted, logits, *shared
            )
        if need_row and tensors.row_offset is not None and tensors.row_offset.dim() == 0:
            row = row.sum()
        scale = scale.sum()
    return (
        once(gradient, anchor) if need_logits else None,
        once(scale, anchor) if need_scale else None,
        once(label, anchor) if need_label else None,
        once(row, anchor) if need_row else None,
    )


class _PairLoss(torch.autograd.Function):
    """A loss of two ``[B, L]`` logits, differentiable in both; ``tensors.targets`` holds the second ones.

    The outputs are the loss, the gradients of both logits if the forward forms them, and an anchor.
    """

    @staticmethod
    @positional
    def forward(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *given, options, form = arguments
        ops, shared = getattr(torch.ops, options.namespace), shared_arguments(TensorArguments(*given), options)
        results = ops.pair_forward(logits, *shared) if form else ops.loss_forward(False, False, logits, *shared)[:1]
        return *results, results[0].new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, *tensors, options, form = inputs
        _, *gradients, anchor = output
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.form = options, form
        ctx.save_for_backward(anchor, *(gradients if form else (logits, *tensors)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return (None,) * (len(TensorArguments._fields) + 3)
        first, second = _scaled(ctx, grad_output) if ctx.form else _both_from_logits(ctx, grad_output)
        return first, *TensorArguments(targets=second), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, *arguments: Any) -> Any:
        own, *dims = in_dims
        other, *rest = arguments
        found, found_dims = _FusedLoss.vmap(info, in_dims, logits, *arguments)
        second, second_dims = _FusedLoss.vmap(info, (dims[0], own, *dims[1:]), other, logits, *rest)
        value, _, gradient, anchor = zip(found, found_dims, strict=True)
        return tuple(zip(value, gradient, (second[2], second_dims[2]), anchor, strict=True))


def _both_from_logits(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both logits, from what was saved."""
    anchor, logits, *given = ctx.saved_tensors
    check_not_batched(logits, *given)
    ops, shared = getattr(torch.ops, ctx.options.namespace), shared_arguments(TensorArguments(*given), ctx.options)
    with torch.no_grad():
        first, second = ops.pair_backward(grad_output, logits, *shared)
    return once(first, anchor), once(second, anchor)


class _Same(torch.autograd.Function):
    """Two results with equal values but separate gradients: returns the first, and passes its gradient to both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(one: Tensor, two: Tensor) -> Tensor:
        return one.view_as(one)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        return grad_outputs * 2


def _differentiated(required: bool) -> bool:
    """Return whether a call needs autograd, given whether its input requires a gradient."""
    transformed = not torch.compiler.is_compiling() and _transformed()
    return transformed or (required and torch.is_grad_enabled())


def _transformed() -> bool:
    """Return whether forward-mode AD or functorch is active: autograd must see such a call, to serve or refuse it."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _traced(logits: Tensor) -> Tensor:
    """Return the logits, as a view if Dynamo might hide their requires_grad.

    It reports False for an argument of a function under torch.func.grad, but not for a view of one.
    """
    return logits if logits.requires_grad else logits.view_as(logits)


def _forms_gradient(logits: Tensor, options: Options) -> bool:
    """Return whether the forward forms the gradient of the logits, if nothing else needs a gradient."""
    return logits.dtype != torch.float16 and (options.reduction != _ops.NONE or options.grouping == _ops.MICRO)


def fused_pair(logits: Tensor, tensors: TensorArguments, options: Options) -> tuple[Tensor, Tensor]:
    """Compute a symmetric loss of two logits; ``tensors.targets`` holds the second ones.

    One kernel forms the gradients of both logits. If one of the logits is a constant, the call is that of any loss
    of the other one. A learnable scale takes a call for each of the logits, and the sum of its gradients.
    """
    other = tensors.targets
    assert other is not None
    if torch.compiler.is_compiling():
        logits, other = _traced(logits), _traced(other)
    scaled = tensors.logit_scale is not None and tensors.logit_scale.requires_grad
    first, second = (_differentiated(x.requires_grad or scaled) for x in (logits, other))
    if first and second and not scaled:
        arguments = (*tensors._replace(targets=other), options, _forms_gradient(logits, options))
        return _PairLoss.apply(logits, *arguments)[0], logits.new_empty(0)
    values = []
    if first or not second:
        values.append(fused_loss(logits, tensors._replace(targets=other.detach()), options)[0])
    if second:
        values.append(fused_loss(other, tensors._replace(targets=logits.detach()), options)[0])
    return values[0] if len(values) == 1 else _Same.apply(*values), logits.new_empty(0)


def fused_loss(logits: Tensor, tensors: TensorArguments, options: Options) -> tuple[Tensor, Tensor]:
    """Return the loss from the engine in ``options.namespace``, and the coefficients if kept; all checks are done."""
    scale, label, row = tensors.logit_scale, tensors.label_offset, tensors.row_offset
    auxiliary = (
        (scale is not None and scale.requires_grad)
        or (label is not None and label.requires_grad)
        or (row is not None and row.requires_grad)
    )
    form = not auxiliary and _forms_gradient(logits, options)
    if torch.compiler.is_dynamo_compiling():
        logits = _traced(logits)
        if (auxiliary or logits.requires_grad) and torch.is_grad_enabled():
            return _FusedLoss.apply(logits, *tensors, options, form)[:2]
    elif _transformed():
        return _FusedLoss.apply(logits, *tensors, options, form)[:2]
    elif (auxiliary or logits.requires_grad) and torch.is_grad_enabled():
        call = tensors, options, form
        if auxiliary:
            return _EagerLoss.apply(logits, call, scale, label, row)[:2]
        return _apply_eagerly(torch._C._functorch.unwrap_if_dead(logits), call)[:2]
    ops = getattr(torch.ops, options.namespace)
    return ops.loss_forward(options.keep, False, logits, *shared_arguments(tensors, options))[:2]
