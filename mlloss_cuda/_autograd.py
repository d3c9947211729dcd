"""One autograd Function over one op a pass, for every loss and engine.

The gradient is formed in the forward when that costs least: the result is a scalar, only the logits
are differentiated, and their dtype can hold a gradient that a later loss scale has not yet reached
(not float16). Otherwise the backward reads the logits once more.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from . import _ops
from ._vmap import losses_of_samples

__all__ = [
    "Options",
    "Sides",
    "backward_from_logits",
    "fused_loss",
    "fused_pair",
    "shared_arguments",
    "unit_grad_output",
]


class Sides(NamedTuple):
    """The tensors beside the logits, all in the compute dtype but the targets and their indices."""

    targets: Tensor | None = None
    crow_indices: Tensor | None = None
    col_indices: Tensor | None = None
    values: Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    logit_scale: Tensor | None = None
    label_offset: Tensor | None = None
    row_offset: Tensor | None = None
    normalizer: Tensor | None = None
    label_parameter: Tensor | None = None


class Options(NamedTuple):
    """What is no tensor: the engine's namespace, then arguments of the ops, then what the Function decides by."""

    namespace: str
    loss: str
    parameters: tuple[float, ...]
    grouping: int
    reduction: int
    scale: float
    offset: float
    label_smoothing: float
    ignore_index: int | None
    in_place: bool
    keep: bool  # coefficients come out, whether or not the backward needs them
    # The logits are the columns from here on of so many labels; None: they are all there are.
    first_label: int = 0
    all_labels: int | None = None


def shared_arguments(logits: Tensor, sides: Sides, options: Options) -> tuple[Any, ...]:
    """The arguments that every op begins with after the logits, in the schemas' order."""
    return (
        *sides,
        options.loss,
        list(options.parameters),
        options.grouping,
        options.reduction,
        options.scale,
        options.offset,
        options.label_smoothing,
        options.ignore_index,
        options.first_label,
        logits.shape[1] if options.all_labels is None else options.all_labels,
    )


class _Once(torch.autograd.Function):
    """Ties a gradient to the loss's node, so that differentiating it again says what is wrong."""

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
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    return _Once.apply(gradient, anchor)


def keeps_graph() -> bool:
    """Whether this backward may come again. Unknown under compile and functorch: then nothing is overwritten."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return torch._C._autograd._get_current_graph_task_keep_graph()


# By dtype, device and the stream on which they were filled; kept, so that their ids are nobody else's.
_units: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}
_unit_ids: set[int] = set()


def unit_grad_output(loss: Tensor) -> Tensor:
    """A 1 to begin the backward pass with, which costs no launch: ``loss.backward(unit_grad_output(loss))``.

    ``loss.backward()`` fills a tensor of ones on every call, and the loss's backward then reads on the GPU what it is
    multiplied by. This tensor is made once for each dtype, device and stream, and the losses of this package know it:
    their backward launches nothing where the forward has formed the gradient. Where a batch is small, launches are
    what a step costs.

    Args:
        loss: a reduced loss of this package, or any other 0-d tensor.

    Returns:
        a 0-d tensor of 1 in the dtype and on the device of ``loss``. It is shared: to change it in place is allowed,
        and costs the next caller a new one.

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
        return torch.ones_like(loss, requires_grad=False)  # what a graph fills is the graph's
    stream = 0 if device.type == "cpu" else torch.accelerator.current_stream(device).stream_id
    unit = _units.get((loss.dtype, device, stream))
    if unit is None or unit._version:
        with torch.inference_mode(False), torch.no_grad():
            unit = torch.ones((), dtype=loss.dtype, device=device)
        if (former := _units.get((loss.dtype, device, stream))) is not None:
            _unit_ids.discard(id(former))
        _units[loss.dtype, device, stream] = unit
        _unit_ids.add(id(unit))
    return unit


def _is_unit(grad_output: Tensor) -> bool:
    """Whether this is the tensor of :func:`unit_grad_output`, unchanged: nothing on the device is looked at."""
    return not torch.compiler.is_compiling() and id(grad_output) in _unit_ids and grad_output._version == 0


class _FusedLoss(torch.autograd.Function):
    """The loss of ``[B, L]`` logits; differentiable in them, logit_scale, label_ and row_offset.

    The last output is an anchor: an empty tensor that hangs on this node. It is kept in place of the
    loss, which is the user's to change (``loss /= n``). Where nobody keeps coefficients and the gradient is
    formed, the op's empty coefficients are the anchor, and the gradient comes last.
    """

    @staticmethod
    def forward(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, options, form = arguments
        ops = getattr(torch.ops, options.namespace)
        shared = shared_arguments(logits, Sides(*tensors), options)
        if form and options.in_place:
            value, coefficients = ops.loss_forward_(logits, *shared, options.keep)
            torch.autograd.graph.increment_version(logits)
            gradient = logits.new_empty(0)
        else:
            value, coefficients, gradient = ops.loss_forward(logits, *shared, options.keep or not form, form)
        if form and not options.keep:
            return value, coefficients, gradient
        return value, coefficients, gradient, value.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, *tensors, options, form = inputs
        _, coefficients, gradient, *own = output
        anchor = own[0] if own else coefficients
        ctx.mark_non_differentiable(gradient, *([coefficients] if own else []))
        ctx.set_materialize_grads(False)
        ctx.options, ctx.form, ctx.spent = options, form, False
        if form:
            ctx.save_for_backward(anchor, logits if options.in_place else gradient)
        else:
            ctx.save_for_backward(anchor, logits, coefficients, *tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad_output = grad_outputs[0]
        if not ctx.form:
            return backward_from_logits(ctx, grad_output)
        none = (None,) * (len(Sides._fields) + 2)
        if grad_output is None:
            return None, *none
        _spend(ctx)
        return _scaled(ctx, grad_output), *none

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, *arguments: Any) -> Any:
        *tensors, options, form = arguments
        return losses_of_samples(info.batch_size, in_dims, logits, Sides(*tensors), options, form, _each, _of_each)


class _Bound(NamedTuple):
    """Arguments that are complete."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def apply_defaults(self) -> None:
        """There are none."""


class _Positional(inspect.Signature):
    """The signature of a function without defaults, whose arguments are all given by their places."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Take them as they are."""
        return super().bind(*args, **kwargs) if kwargs else _Bound(args, {})


# apply() asks for the signature on every call and binds the arguments to it; inspect takes 20 µs for that.
_FusedLoss.forward.__signature__ = _Positional(  # type: ignore[attr-defined]
    list(inspect.signature(_FusedLoss.forward).parameters.values())
)


def _each(logits: Tensor, sides: Sides, options: Options) -> tuple[Tensor, Tensor]:
    """A loss for each row or element, and coefficients."""
    return _FusedLoss.apply(logits, *sides, options, False)[:2]


def _of_each(logits: Tensor, sides: Sides, options: Options, coefficients: Tensor, grad_output: Tensor) -> Tensor:
    """The gradient of the logits from a ``grad_output`` for each row or element."""
    ops, shared = getattr(torch.ops, options.namespace), shared_arguments(logits, sides, options)
    return ops.loss_backward(logits, *shared, coefficients, grad_output, True, False, False, False)[0]


def _scaled(ctx: Any, grad_output: Tensor) -> Tensor:
    """The gradient that the forward left, times ``grad_output``."""
    anchor, gradient = ctx.saved_tensors
    ops = getattr(torch.ops, ctx.options.namespace)
    unit = _is_unit(grad_output)
    with torch.no_grad():
        if torch._C._are_functorch_transforms_active():
            scaled = gradient * grad_output  # which vmap knows
        elif not ctx.options.in_place and keeps_graph():
            scaled = gradient.clone() if unit else ops.scale_gradient(gradient, grad_output)
        else:
            if not unit:
                ops.scale_gradient_(gradient, grad_output)
            scaled = gradient.detach()
    return once(scaled, anchor)


def _spend(ctx: Any) -> None:
    if not ctx.options.in_place:
        return
    if ctx.spent:
        raise RuntimeError("inplace_backward: the logits hold one gradient, for one backward only")
    ctx.spent = True


def backward_from_logits(ctx: Any, grad_output: Tensor | None) -> tuple[Any, ...]:
    """Gradients from what a forward kept: an anchor, the logits, the coefficients, the sides.

    Of a Function whose inputs are the logits, the sides and two that are no tensors.
    """
    if grad_output is None:
        return (None,) * (len(Sides._fields) + 3)
    _spend(ctx)
    anchor, logits, coefficients, *tensors = ctx.saved_tensors
    options: Options = ctx.options
    sides = Sides(*tensors)
    need_logits, needs = ctx.needs_input_grad[0], Sides(*ctx.needs_input_grad[1:-2])
    wanted = (needs.row_offset, needs.logit_scale, needs.label_offset)
    ops = getattr(torch.ops, options.namespace)
    shared = shared_arguments(logits, sides, options)
    with torch.no_grad():
        if need_logits and options.in_place:
            row, scale, label = ops.loss_backward_(logits, *shared, coefficients, grad_output, *wanted)
            torch.autograd.graph.increment_version(logits)
            gradient = logits.detach()
        else:
            gradient, row, scale, label = ops.loss_backward(
                logits, *shared, coefficients, grad_output, need_logits, *wanted
            )
        if needs.row_offset and sides.row_offset is not None and sides.row_offset.dim() == 0:
            row = row.sum()
        scale = scale.sum()
    grads = Sides(
        logit_scale=once(scale, anchor) if needs.logit_scale else None,
        label_offset=once(label, anchor) if needs.label_offset else None,
        row_offset=once(row, anchor) if needs.row_offset else None,
    )
    return once(gradient, anchor) if need_logits else None, *grads, None, None


class _Same(torch.autograd.Function):
    """Two results that are one number, each with gradients of its own."""

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
    if not torch.compiler.is_compiling() and (
        torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    ):
        return True  # so that autograd says that there is no forward mode, drops no tangent, and vmap has its rule
    return required and torch.is_grad_enabled()


def fused_pair(logits: Tensor, sides: Sides, options: Options) -> tuple[Tensor, Tensor]:
    """A symmetric loss of two logits, of which ``sides.targets`` are the second ones.

    A call for each that is differentiated, in which the other one is a constant.
    """
    other = sides.targets
    assert other is not None
    scaled = sides.logit_scale is not None and sides.logit_scale.requires_grad
    first, second = (_differentiated(x.requires_grad or scaled) for x in (logits, other))
    values = []
    if first or not second:
        values.append(fused_loss(logits, sides._replace(targets=other.detach()), options)[0])
    if second:
        values.append(fused_loss(other, sides._replace(targets=logits.detach()), options)[0])
    return values[0] if len(values) == 1 else _Same.apply(*values), logits.new_empty(0)


def fused_loss(logits: Tensor, sides: Sides, options: Options) -> tuple[Tensor, Tensor]:
    """The loss by the engine that ``options.namespace`` names, and coefficients if kept; every check has been made."""
    auxiliary = any(
        side is not None and side.requires_grad for side in (sides.logit_scale, sides.label_offset, sides.row_offset)
    )
    if not _differentiated(logits.requires_grad or auxiliary):
        ops = getattr(torch.ops, options.namespace)
        return ops.loss_forward(logits, *shared_arguments(logits, sides, options), options.keep, False)[:2]
    scalar = _ops.REDUCTIONS[options.reduction] != "none" or _ops.GROUPINGS[options.grouping] == "micro"
    form = scalar and not auxiliary and logits.dtype != torch.float16
    return _FusedLoss.apply(logits, *sides, options, form)[:2]
