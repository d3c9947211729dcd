"""Checks of a call, its shapes, and the choice of the backend that runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from . import _backends, _ops
from . import _validation as check
from ._autograd import fused_loss, fused_pair
from ._call import CheckedCall, Options, TensorArguments
from ._reference import loss_input, reference_loss
from ._registry import Term
from .targets import CSRTargets

__all__ = [
    "ShardedEngine",
    "check_in_place",
    "checked_logits",
    "evaluate",
    "evaluate_kept",
    "prepare",
    "run",
    "serve_sharded",
    "transformed",
    "without_ignore_nan",
]


class ShardedEngine(NamedTuple):
    """The functions of ``mlloss_cuda.sharding`` that serve logits of which this rank has some columns."""

    as_sharded: Callable[[Any], Any]  # returns None for anything but sharded logits
    prepare: Callable[..., CheckedCall]
    evaluate_kept: Callable[..., tuple[Tensor, Tensor]]


_sharded_engine: ShardedEngine | None = None


def serve_sharded(engine: ShardedEngine) -> None:
    """Let ``engine`` serve calls whose logits are sharded."""
    global _sharded_engine
    _sharded_engine = engine


def _as_sharded(logits: Any) -> Any:
    """Return the logits as ``ShardedLogits`` if their labels lie on several ranks, else None."""
    return None if _sharded_engine is None else _sharded_engine.as_sharded(logits)


def checked_logits(logits: Any) -> Any:
    """Check logits that may be sharded, and return them: ``ShardedLogits`` if they are."""
    sharded = None if type(logits) is Tensor else _as_sharded(logits)
    if sharded is None:
        return check.check_logits(logits)
    check.check_logits(sharded.local)
    return sharded


def evaluate(term: Term, logits: Any, targets: Any, **common: Any) -> Tensor:
    """Check everything, then run the loss on the backend that serves the logits' device."""
    if type(logits) is not Tensor:
        return evaluate_kept(term, logits, targets, **common, keep=False)[0]
    call = _prepare(term, logits, targets, common)
    value = run(call)[0]
    return value if logits.dim() == 2 else _shaped(value, logits, call)


def evaluate_kept(term: Term, logits: Any, targets: Any, *, keep: bool = True, **common: Any) -> tuple[Tensor, Tensor]:
    """Evaluate the loss, and also return the coefficients [C, groups]; they are empty if the reference serves."""
    if type(logits) is not Tensor and (sharded := _as_sharded(logits)) is not None:
        assert _sharded_engine is not None
        return _sharded_engine.evaluate_kept(term, sharded, targets, **common, keep=keep)
    call = _prepare(term, logits, targets, common, keep)
    value, kept = run(call)
    return _shaped(value, logits, call), kept


def _shaped(value: Tensor, logits: Tensor, call: CheckedCall) -> Tensor:
    """Give values of elements or rows the logits' leading dimensions."""
    if value.dim() == 0 or call.options.grouping >= _ops.MACRO:
        return value
    return value.reshape(logits.shape if call.term.spec.element_wise else logits.shape[:-1])


def run(call: CheckedCall) -> tuple[Tensor, Tensor]:
    """Run a checked call on its backend."""
    term, tensors, options = call.term, call.tensors, call.options
    if call.backend != "reference":
        return (fused_pair if term.spec.second_logits else fused_loss)(call.logits, tensors, options)
    return reference_loss(term.spec, call.logits, call.targets, tensors, options), call.logits.new_empty(0)


def prepare(term: Term, logits: Any, targets: Any, *, keep: bool = False, **common: Any) -> CheckedCall:
    """Check every argument and shape, and choose the backend. No value of the logits is read."""
    if type(logits) is not Tensor and (sharded := _as_sharded(logits)) is not None:
        assert _sharded_engine is not None
        return _sharded_engine.prepare(term, sharded, targets, **common, keep=keep)
    return _prepare(term, logits, targets, common, keep)


def _constant(name: str, value: Any, shape: tuple[int, ...], logits: Tensor) -> Tensor:
    """Check a tensor argument that has no gradient, and return it: finite and >= 0."""
    check.check_constant(name, value)
    return check.check_tensor(name, value, shape, logits, low=0.0, open_low=False).detach()


# The checked options of calls whose numbers are plain, by everything that the options depend on.
_known_options: dict[tuple[Any, ...], Options] = {}
_MOST_KNOWN: Final = 256  # a number that changes at every step must not fill the memory


def _prepare(term: Term, logits: Any, targets: Any, common: dict[str, Any], keep: bool = False) -> CheckedCall:
    spec = term.spec
    if spec.second_logits or not check.are_plain(logits, targets):
        logits = check.check_logits(logits)
        targets = (check.check_other_logits if spec.second_logits else check.check_targets)(targets, logits)
    labels = logits.shape[-1]
    route = _backends.route(logits.device, spec.name)

    smoothing, ignore_index = common["label_smoothing"], common["ignore_index"]
    logit_scale, logit_bias = common["logit_scale"], common["logit_bias"]
    reduction, in_place = common["reduction"], common["inplace_backward"]
    numbers = ignore_index, smoothing, logit_scale, logit_bias, reduction, in_place
    replaced: Sequence[Tensor | None] = ()
    # The types are a part of the condition, because True and 1 equal 1.0 as parts of a key.
    if (
        type(term.threshold) is type(logit_scale) is type(smoothing) is float
        and ignore_index is logit_bias is None
        and in_place is False
        and type(reduction) is str
        and type(labels) is int
        and not torch.compiler.is_dynamo_compiling()
    ):
        key = (route, labels, term[1:4], spec.name, numbers, keep)
        options = _known_options.get(key)
        if options is None:
            options = _check_numbers(term, logits, route, numbers, keep)[0]
            if len(_known_options) >= _MOST_KNOWN:
                _known_options.clear()
            _known_options[key] = options
    else:
        if ignore_index is not None:
            targets, ignore_index = without_ignore_nan(targets, check.check_ignore_index(ignore_index))
            numbers = ignore_index, *numbers[1:]
        options, *replaced = _check_numbers(term, logits, route, numbers, keep)

    flat = logits
    if logits.dim() != 2:
        flat = logits.reshape(math.prod(logits.shape[:-1]), labels)
        if not isinstance(targets, CSRTargets):
            targets = targets.reshape(flat.shape)
    if (
        type(targets) is Tensor
        and not replaced
        and common["weight"] is common["sample_weight"] is common["normalizer"] is term.label_parameter is None
    ):
        tensors = TensorArguments(targets)
    else:
        tensors = _check_tensors(term, logits, targets, replaced or (None, None, None), common)
    return CheckedCall(term, route.backend, flat, targets, tensors, options)


def _check_numbers(
    term: Term, logits: Tensor, route: _backends.Route, numbers: tuple[Any, ...], keep: bool
) -> tuple[Options, Tensor | None, Tensor | None, Tensor | None]:
    """Check the threshold and the arguments that are numbers; ``ignore_index`` is checked already.

    Return the options, and the tensors that replace numbers: logit_scale, label_offset and row_offset.
    """
    ignore_index, label_smoothing, logit_scale, logit_bias, reduction, inplace_backward = numbers
    labels = logits.shape[-1]
    reduction = check.check_choice("reduction", reduction, _ops.REDUCTIONS)
    smoothing = check.check_label_smoothing(label_smoothing)
    in_place = check_in_place(logits, inplace_backward)
    scale, scale_tensor, offset, label_offset, row_offset = _transform(term.threshold, logit_scale, logit_bias, logits)
    if route.most_labels is not None and labels > route.most_labels:
        raise ValueError(f"logits: the {route.backend} kernels take at most {route.most_labels} labels, got {labels}")
    options = Options(
        term.spec.name,
        term.parameters,
        _ops.GROUPINGS.index(term.grouping),
        _ops.REDUCTIONS.index(reduction),
        scale,
        offset,
        smoothing,
        ignore_index,
        0,
        labels,
        route.namespace,
        in_place,
        keep,
    )
    return options, scale_tensor, label_offset, row_offset


def _check_tensors(
    term: Term,
    logits: Tensor,
    targets: Tensor | CSRTargets,
    replaced: Sequence[Tensor | None],
    common: dict[str, Any],
) -> TensorArguments:
    """Check the tensors beside logits and targets; ``replaced`` holds those that ``_check_numbers`` returned."""
    *leading, labels = logits.shape
    weight, sample_weight, normalizer = common["weight"], common["sample_weight"], common["normalizer"]
    label_parameter = None
    if weight is not None:
        weight = _constant("weight", weight, (labels,), logits)
    if sample_weight is not None:
        sample_weight = _constant("sample_weight", sample_weight, tuple(leading), logits).reshape(math.prod(leading))
    if term.label_parameter is not None:
        name, value = term.label_parameter
        label_parameter = _constant(name, value, (labels,), logits)
    if normalizer is not None:
        normalizer = _check_normalizer(normalizer, common["reduction"], logits)
    logit_scale, label_offset, row_offset = replaced
    dense = crow_indices = col_indices = values = None
    if isinstance(targets, CSRTargets):
        crow_indices, col_indices, values = _columns(targets, logits)
    else:
        dense = targets
    return TensorArguments(
        dense,
        crow_indices,
        col_indices,
        values,
        weight,
        sample_weight,
        logit_scale,
        label_offset,
        row_offset,
        normalizer,
        label_parameter,
    )


def without_ignore_nan(targets: Any, ignore_index: int | None) -> tuple[Any, int | None]:
    """Return targets and ignore_index without IGNORE_NAN, except for dense floating targets.

    Engines know NaN as a mark of unknown labels in these only; in CSR values a negative number takes its place.
    """
    if ignore_index != _ops.IGNORE_NAN:
        return targets, ignore_index
    if not isinstance(targets, CSRTargets):
        return targets, ignore_index if targets.is_floating_point() else None
    if targets.values is None:
        return targets, None
    return targets._replace(values=targets.values.masked_fill(targets.values.isnan(), -1.0)), None


def transformed(logits: Any, *, threshold: Any, logit_scale: Any, logit_bias: Any) -> Tensor:
    """Return the loss's input in the compute dtype: ``logit_scale * logits + logit_bias - threshold``.

    A threshold may be infinite here, which decides the label for all logits.
    """
    logits = check.check_logits(logits)
    number, scale, offset, of_labels, of_rows = _transform(threshold, logit_scale, logit_bias, logits, finite=False)
    return loss_input(logits, number if scale is None else scale, offset, of_labels, of_rows)


def check_in_place(logits: Tensor, inplace_backward: Any) -> bool:
    """Check ``inplace_backward``, and that the logits allow it; return it."""
    if not check.check_bool("inplace_backward", inplace_backward):
        return False
    if not logits.is_contiguous():
        raise ValueError(f"inplace_backward: expected contiguous logits, got strides {logits.stride()}")
    if _leaf(logits):
        raise ValueError("inplace_backward: expected logits that an operation made, got a leaf tensor or a view of one")
    return True


def _leaf(logits: Tensor) -> bool:
    """Return whether the logits share the memory of a leaf tensor, such as a parameter, whose values the user keeps."""
    if not logits.requires_grad:
        return False
    if logits.is_leaf:
        return True
    base = logits._base
    if torch.compiler.is_compiling():
        return isinstance(base, torch.nn.Parameter)  # a graph cannot always ask a base for more than its type
    return base is not None and base.is_leaf and base.requires_grad


def _columns(targets: CSRTargets, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    values = targets.values
    if values is not None:
        values = values.detach().to(_ops.compute_dtype(logits)).contiguous()
    return targets.crow_indices.contiguous(), targets.col_indices.contiguous(), values


def _check_normalizer(normalizer: Any, reduction: str, logits: Tensor) -> Tensor:
    check.check_divides_a_sum(normalizer, reduction)
    if isinstance(normalizer, Tensor):
        return _constant("normalizer", normalizer, (), logits)
    number, dtype = check.check_normalizer(normalizer), _ops.compute_dtype(logits)
    if number > torch.finfo(dtype).max:
        raise ValueError(f"normalizer: expected a number in the range of {dtype}, got {number!r}")
    return torch.full((), number, dtype=dtype, device=logits.device)


def _transform(
    threshold: Any, logit_scale: Any, logit_bias: Any, logits: Tensor, *, finite: bool = True
) -> tuple[float, Tensor | None, float, Tensor | None, Tensor | None]:
    """Return how the loss's input follows from the logits: the scale and the offsets.

    The scale is a number and, if it is a tensor, a 0-d tensor that replaces the number. The offsets are a number, a
    tensor per label, and a tensor per row (or 0-d).
    """
    # Most calls have two plain numbers, which need no further checks.
    numbers = logit_bias is None and type(threshold) is float and type(logit_scale) is float
    if numbers and -math.inf < threshold < math.inf and -math.inf < logit_scale < math.inf:
        return logit_scale, None, -threshold, None, None
    scale, scale_tensor = 1.0, None
    if isinstance(logit_scale, Tensor):
        if logit_scale.numel() == 1 and logit_scale.layout == torch.strided:
            logit_scale = logit_scale.reshape(())
        scale_tensor = check.check_tensor("logit_scale", logit_scale, (), logits)
    else:
        scale = check.check_number("logit_scale", logit_scale)
    if logit_bias is not None:
        logit_bias = check.check_tensor("logit_bias", logit_bias, (logits.shape[-1],), logits)
    return scale, scale_tensor, *_offsets(threshold, logit_bias, logits, finite)


def _offsets(
    threshold: Any, logit_bias: Tensor | None, logits: Tensor, finite: bool
) -> tuple[float, Tensor | None, Tensor | None]:
    """Return what is added to the scaled logits: a number, a tensor per label, and a tensor per row (or 0-d)."""
    if not isinstance(threshold, Tensor):
        return -check.check_number("threshold", threshold), logit_bias, None
    leading, labels = tuple(logits.shape[:-1]), logits.shape[-1]
    shape = tuple(threshold.shape)
    shift = check.check_tensor("threshold", threshold, shape, logits, finite=finite)
    if threshold.numel() == 1:
        return 0.0, logit_bias, -shift.reshape(())
    if shape[-1] == labels and threshold.numel() == labels:
        shift = shift.reshape(labels)
        return 0.0, -shift if logit_bias is None else logit_bias - shift, None
    if shape[-1] == 1 and _broadcasts(shape, (*leading, 1)):
        return 0.0, logit_bias, -shift.expand(*leading, 1).reshape(-1)
    raise ValueError(
        f"threshold: expected a number, or a shape that broadcasts to rows {(*leading, 1)} or to labels "
        f"({labels},), got {shape}"
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    if len(shape) > len(to):
        return False
    return all(size in (1, wanted) for size, wanted in zip(reversed(shape), reversed(to), strict=False))
