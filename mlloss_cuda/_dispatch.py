"""From a user's call to an engine's: checks, shapes, choice of backend."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _backends, _ops
from . import _validation as check
from ._autograd import Options, Sides, fused_loss, fused_pair
from ._graph_break import uncompiled
from ._reference import reference_loss
from ._registry import Term
from ._sharded import described, local_call, local_targets, run_sharded, whole_call
from ._shards import LabelShards, ShardedLogits
from .targets import CSRTargets

__all__ = ["Prepared", "evaluate", "evaluate_kept", "prepare", "shifted"]


class Prepared(NamedTuple):
    """A call that has been checked, and what a backend needs to run it."""

    term: Term
    backend: str
    logits: Tensor  # [rows, labels]
    targets: Tensor | CSRTargets
    sides: Sides
    options: Options
    shards: LabelShards | None = None  # logits, targets and sides are a rank's own


def evaluate(term: Term, logits: Any, targets: Any, **common: Any) -> Tensor:
    """Check everything, then run the loss on the backend that serves the logits' device."""
    return evaluate_kept(term, logits, targets, keep=False, **common)[0]


def evaluate_kept(term: Term, logits: Any, targets: Any, *, keep: bool = True, **common: Any) -> tuple[Tensor, Tensor]:
    """The same, and the coefficients [C, groups] that engines leave (nothing, by the reference)."""
    logits = check.check_logits(logits, sharded=True)
    if isinstance(logits, ShardedLogits):
        run = _uncompiled if torch.compiler.is_compiling() else _evaluate_sharded
        return run(term, logits, targets, {**common, "keep": keep})
    call = prepare(term, logits, targets, keep=keep, **common)
    value, kept = _run(call)
    if _ops.REDUCTIONS[call.options.reduction] == "none" and term.grouping not in ("macro", "micro"):
        value = value.reshape(logits.shape if term.grouping == "element" else logits.shape[:-1])
    return value, kept


def _evaluate_sharded(
    term: Term, logits: ShardedLogits, targets: Any, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    shards, local = logits.shards, logits.local
    call = shards.agreed(lambda: prepare(term, logits, targets, **arguments), described, local.device)
    none = _ops.REDUCTIONS[call.options.reduction] == "none"
    if call.backend == "reference":
        _, own, everything = local_targets(targets, logits)
        own = _without_nan(own, check.check_ignore_index(arguments["ignore_index"]))[0]
        value, kept = _run(whole_call(call, own, everything, logits))
        if none and term.grouping in ("element", "macro"):
            value = value[..., shards.own]
    else:
        value, kept = run_sharded(call)
    if none and term.grouping not in ("macro", "micro"):
        value = value.reshape(local.shape if term.grouping == "element" else local.shape[:-1])
    return value, kept


_uncompiled = uncompiled(
    _evaluate_sharded,
    "a mlloss_cuda loss of sharded labels runs collectives, which no graph holds; compile with fullgraph=False, or "
    "compile what makes the logits and call the loss outside",
)


def _run(call: Prepared) -> tuple[Tensor, Tensor]:
    term, sides, options = call.term, call.sides, call.options
    if call.backend != "reference":
        return (fused_pair if term.spec.raw_targets else fused_loss)(call.logits, sides, options)
    value = reference_loss(
        term.spec,
        call.logits,
        call.targets,
        parameters=options.parameters,
        grouping=term.grouping,
        scale=options.scale if sides.logit_scale is None else sides.logit_scale,
        label_offset=sides.label_offset,
        row_offset=sides.row_offset,
        offset=options.offset,
        weight=sides.weight,
        sample_weight=sides.sample_weight,
        label_smoothing=options.label_smoothing,
        ignore_index=options.ignore_index,
        normalizer=sides.normalizer,
        reduction=_ops.REDUCTIONS[options.reduction],
        label_parameter=sides.label_parameter,
    )
    return value, call.logits.new_empty(0)


def prepare(term: Term, logits: Any, targets: Any, **arguments: Any) -> Prepared:
    """Every check, shapes, and the choice of backend. Of the logits no value is looked at."""
    logits = check.check_logits(logits, sharded=True)
    if not term.spec.raw_targets:
        check.check_constant("targets", targets)
    if not isinstance(logits, ShardedLogits):
        return _prepare(term, logits, targets, **arguments)
    # As if all labels were here; then what is this rank's of it.
    in_place = _check_in_place(logits.local, arguments.pop("inplace_backward"))
    looked_at, own, everything = local_targets(targets, logits)
    call = _prepare(term, logits.stand_in(), looked_at, **arguments, inplace_backward=False)
    if call.backend == "reference":
        return call._replace(shards=logits.shards)
    own = _without_nan(own, check.check_ignore_index(arguments["ignore_index"]))[0]
    call = local_call(call, logits, own, everything)
    return call._replace(options=call.options._replace(in_place=in_place))


def _constant(name: str, side: Any, shape: tuple[int, ...], logits: Tensor) -> Tensor:
    """A tensor beside the logits that the loss is not differentiated in: finite, >= 0."""
    check.check_constant(name, side)
    return check.check_side(name, side, shape, logits, low=0.0, open_low=False).detach()


def _prepare(
    term: Term,
    logits: Tensor,
    targets: Any,
    *,
    weight: Any,
    sample_weight: Any,
    label_smoothing: Any,
    ignore_index: Any,
    logit_scale: Any,
    logit_bias: Any,
    normalizer: Any,
    reduction: Any,
    inplace_backward: Any,
    keep: bool,
) -> Prepared:
    targets = (check.check_other_logits if term.spec.raw_targets else check.check_targets)(targets, logits)
    reduction = check.check_choice("reduction", reduction, _ops.REDUCTIONS)
    ignore_index = check.check_ignore_index(ignore_index)
    targets, ignore_index = _without_nan(targets, ignore_index)
    smoothing = check.check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
    in_place = _check_in_place(logits, inplace_backward)

    leading, labels = logits.shape[:-1], logits.shape[-1]
    rows = math.prod(leading)
    if weight is not None:
        weight = _constant("weight", weight, (labels,), logits)
    if sample_weight is not None:
        sample_weight = _constant("sample_weight", sample_weight, tuple(leading), logits).reshape(rows)
    of_labels = None
    if term.label_parameter is not None:
        name, value = term.label_parameter
        of_labels = _constant(name, value, (labels,), logits)
    normalizer = _check_normalizer(normalizer, reduction, logits)
    scale, logit_scale = _split_scale(logit_scale, logits)
    if logit_bias is not None:
        logit_bias = check.check_side("logit_bias", logit_bias, (labels,), logits)
    offset, label_offset, row_offset = _offsets(term.threshold, logit_bias, logits)

    backend = _backends.choose(logits.device.type, term.spec.name)
    most = _backends.most_labels(backend)
    if most is not None and labels > most:
        raise ValueError(f"logits: the {backend} kernels take at most {most} labels, got {labels}")
    flat = logits if logits.dim() == 2 else logits.reshape(rows, labels)
    dense = None
    if isinstance(targets, Tensor):
        dense = targets = targets if targets.dim() == 2 else targets.reshape(rows, labels)
    sides = Sides(
        dense,
        *_columns(targets, logits),
        weight,
        sample_weight,
        logit_scale,
        label_offset,
        row_offset,
        normalizer,
        of_labels,
    )
    options = Options(
        "" if backend == "reference" else _backends.namespace_of(backend),
        term.spec.name,
        term.parameters,
        _ops.GROUPINGS.index(term.grouping),
        _ops.REDUCTIONS.index(reduction),
        scale,
        offset,
        smoothing,
        ignore_index,
        in_place,
        keep,
    )
    return Prepared(term, backend, flat, targets, sides, options)


def _without_nan(targets: Any, ignore_index: int | None) -> tuple[Any, int | None]:
    """NaN marks what is unknown in dense floating targets alone: in CSR a value below 0 does, as engines know it."""
    if ignore_index != _ops.IGNORE_NAN:
        return targets, ignore_index
    if not isinstance(targets, CSRTargets):
        return targets, ignore_index if targets.is_floating_point() else None
    if targets.values is None:
        return targets, None
    return targets._replace(values=targets.values.masked_fill(targets.values.isnan(), -1.0)), None


def shifted(logits: Any, *, threshold: Any, logit_scale: Any, logit_bias: Any) -> Tensor:
    """``logit_scale * logits + logit_bias - threshold`` in the compute dtype: what the loss is of.

    A threshold may be infinite here: the label is then decided.
    """
    logits = check.check_logits(logits)
    number, scale = _split_scale(logit_scale, logits)
    if logit_bias is not None:
        logit_bias = check.check_side("logit_bias", logit_bias, (logits.shape[-1],), logits)
    offset, of_labels, of_rows = _offsets(threshold, logit_bias, logits, finite=False)
    s = logits.to(_ops.compute_dtype(logits)) * (number if scale is None else scale) + offset
    if of_labels is not None:
        s = s + of_labels
    if of_rows is not None:
        s = s + (of_rows if of_rows.dim() == 0 else of_rows.reshape(*logits.shape[:-1], 1))
    return s


def _check_in_place(logits: Tensor, inplace_backward: Any) -> bool:
    if not check.check_bool("inplace_backward", inplace_backward):
        return False
    if not logits.is_contiguous():
        raise ValueError(f"inplace_backward: expected contiguous logits, got strides {logits.stride()}")
    if _leaf(logits):
        raise ValueError("inplace_backward: expected logits that an operation made, got a leaf tensor or a view of one")
    return True


def _leaf(logits: Tensor) -> bool:
    """Whether the logits' memory is that of a tensor whose values the user keeps: a parameter, say."""
    if not logits.requires_grad:
        return False
    if logits.is_leaf:
        return True
    base = None if torch.compiler.is_compiling() else logits._base
    return base is not None and base.is_leaf and base.requires_grad


def _columns(targets: Tensor | CSRTargets, logits: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(targets, Tensor):
        return None, None, None
    values = targets.values
    if values is not None:
        values = values.detach().to(_ops.compute_dtype(logits)).contiguous()
    return targets.crow_indices.contiguous(), targets.col_indices.contiguous(), values


def _check_normalizer(normalizer: Any, reduction: str, logits: Tensor) -> Tensor | None:
    if normalizer is None:
        return None
    if reduction != "sum":
        raise ValueError(f"normalizer: expected reduction='sum' with it, got reduction={reduction!r}")
    if isinstance(normalizer, Tensor):
        return _constant("normalizer", normalizer, (), logits)
    number = check.check_number("normalizer", normalizer, 0.0)
    return torch.full((), number, dtype=_ops.compute_dtype(logits), device=logits.device)


def _split_scale(logit_scale: Any, logits: Tensor) -> tuple[float, Tensor | None]:
    """A number, or a 0-d tensor that stands in its place."""
    if isinstance(logit_scale, Tensor):
        return 1.0, check.check_side("logit_scale", logit_scale, (), logits)
    return check.check_number("logit_scale", logit_scale), None


def _offsets(
    threshold: Any, logit_bias: Tensor | None, logits: Tensor, *, finite: bool = True
) -> tuple[float, Tensor | None, Tensor | None]:
    """What is added to the logits: one number, one for each label, one for each row (or 0-d)."""
    if not isinstance(threshold, Tensor):
        return -check.check_number("threshold", threshold), logit_bias, None
    leading, labels = tuple(logits.shape[:-1]), logits.shape[-1]
    shape = tuple(threshold.shape)
    shift = check.check_side("threshold", threshold, shape, logits, finite=finite)
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
