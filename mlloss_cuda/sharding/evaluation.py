"""The evaluation of a loss whose labels lie on several ranks.

If groups are elements or labels, each group lies on one rank, and a rank's loss is its share of the total. If groups
are rows or the whole batch, they span ranks: the ranks gather their statistics once (and second-pass sums once more),
each rank merges them with the functor's ``merge`` in the order of the ranks, and computes the value on its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .. import _dispatch, _ops
from .. import _validation as check
from .._autograd import backward_from_logits, fused_loss, fused_pair
from .._call import LEARNED, OF_LABELS, CheckedCall, Options, TensorArguments, shared_arguments
from .._graph_break import uncompiled
from .._positional import positional
from .._reference import equal_to
from .._registry import Term
from ..targets import CSRTargets
from .shards import LabelShards, ShardedLogits, as_sharded, is_dtensor, replicated, total_over

__all__ = ["described", "evaluate_kept", "finished", "prepare"]

# Options that ranks compare in words of their own, and options that may differ between ranks.
_IN_WORDS = ("loss", "parameters", "grouping", "reduction")
_MAY_DIFFER = ("ignore_index", "first_label", "all_labels", "namespace", "in_place", "keep")


def evaluate_kept(term: Term, logits: ShardedLogits, targets: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Check the call, run it, and return the value and the coefficients. A compiled model breaks its graph here."""
    run = _uncompiled if torch.compiler.is_compiling() else _evaluate
    return run(term, logits, targets, arguments)


def _evaluate(term: Term, logits: ShardedLogits, targets: Any, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    shards, local = logits.shards, logits.local
    call = shards.agreed(lambda: prepare(term, logits, targets, **arguments), described, local.device)
    none = _ops.REDUCTIONS[call.options.reduction] == "none"
    if call.backend == "reference":
        _, own, everything = local_targets(targets, logits)
        own = _dispatch.without_ignore_nan(own, check.check_ignore_index(arguments["ignore_index"]))[0]
        whole = whole_call(call, own, everything, logits)
        if none and term.grouping in ("element", "macro"):
            # A rank's values depend on its own labels, so gradients of what all ranks share are sums over ranks.
            shared = {name: replicated(getattr(whole.tensors, name), shards) for name in LEARNED}
            value, kept = _dispatch.run(whole._replace(tensors=whole.tensors._replace(**shared)))
            value = value[..., shards.own]
        else:
            value, kept = _dispatch.run(whole)
    else:
        value, kept = run_sharded(call)
    if none and term.grouping not in ("macro", "micro"):
        value = value.reshape(local.shape if term.grouping == "element" else local.shape[:-1])
    return value, kept


_uncompiled = uncompiled(
    _evaluate,
    "a mlloss_cuda loss of sharded labels runs collectives, which no graph can contain; compile with fullgraph=False, "
    "or compile the model that computes the logits and call the loss outside",
)


def prepare(term: Term, logits: ShardedLogits, targets: Any, *, inplace_backward: Any, **arguments: Any) -> CheckedCall:
    """Check the call as if this rank had all labels, then cut it to the rank's. No value of the logits is read."""
    check.check_logits(logits.local)
    if not term.spec.second_logits:
        check.check_constant("targets", targets)
    in_place = _dispatch.check_in_place(logits.local, inplace_backward)
    seen, own, everything = local_targets(targets, logits)
    call = _dispatch.prepare(term, logits.stand_in(), seen, **arguments, inplace_backward=False)
    if call.backend == "reference":
        return call._replace(shards=logits.shards)
    own = _dispatch.without_ignore_nan(own, check.check_ignore_index(arguments["ignore_index"]))[0]
    call = local_call(call, logits, own, everything)
    return call._replace(options=call.options._replace(in_place=in_place))


def local_targets(targets: Any, logits: ShardedLogits) -> tuple[Any, Any, bool]:
    """Return targets of all labels for the checks, the targets to use, and whether these are CSR of all labels."""
    shards, local = logits.shards, logits.local
    if isinstance(targets, Tensor) and targets.layout == torch.sparse_csr:
        targets = CSRTargets.from_sparse(targets)
    if isinstance(targets, CSRTargets):
        if targets.num_labels not in (shards.labels, local.shape[-1]):
            raise ValueError(
                f"targets: expected {shards.labels} labels, as all ranks have together, or {local.shape[-1]}, this "
                f"rank's own, got {targets.num_labels}"
            )
        everything = targets.num_labels == shards.labels
        return targets._replace(num_labels=shards.labels), targets, everything
    if is_dtensor(targets):
        targets = targets.to_local()
    if not isinstance(targets, Tensor) or targets.layout != torch.strided:
        return targets, targets, False  # the checks will raise the error
    if targets.shape == logits.shape:
        targets = targets[..., shards.own]
    if targets.shape != local.shape:
        raise ValueError(
            f"targets: expected this rank's columns, {tuple(local.shape)}, or all of them, {tuple(logits.shape)}, "
            f"got {tuple(targets.shape)}"
        )
    return logits.stand_in(targets), targets, False


def local_call(call: CheckedCall, logits: ShardedLogits, targets: Any, everything: bool) -> CheckedCall:
    """Return this rank's part of a call: its labels of every tensor with an entry per label, as views."""
    shards, rows = logits.shards, call.logits.shape[0]
    width = logits.local.shape[-1]
    tensors = call.tensors
    cut: dict[str, Any] = {name: replicated(getattr(tensors, name), shards) for name in ("logit_scale", "row_offset")}
    for name in OF_LABELS:
        tensor = replicated(getattr(tensors, name), shards)
        cut[name] = None if tensor is None else tensor[shards.own]
    if isinstance(targets, Tensor):
        own = targets if targets.requires_grad and call.term.spec.second_logits else targets.detach()
        targets = own.reshape(rows, width)
        cut["targets"] = targets
    options = call.options._replace(first_label=shards.own.start if everything else 0, all_labels=shards.labels)
    return call._replace(
        logits=logits.local.reshape(rows, width),
        targets=targets,
        tensors=tensors._replace(**cut),
        options=options,
        shards=shards,
    )


def described(call: CheckedCall) -> str:
    """Describe in words what must be equal on all ranks."""
    options = call.options
    assert call.shards is not None
    numbers = [f"{name} {value}" for name, value in options._asdict().items() if name not in _IN_WORDS + _MAY_DIFFER]
    return (
        f"{call.logits.shape[0]} rows of {call.shards.labels} labels, {call.logits.dtype}, {options.loss} with "
        f"{options.parameters}, by {call.term.grouping}, reduction {_ops.REDUCTIONS[options.reduction]!r}, "
        f"{', '.join(numbers)}, backend {call.backend}, gradients of {_learned(call.tensors)}"
    )


def _learned(tensors: TensorArguments) -> list[str]:
    """Return the names of tensors besides the logits that need a gradient, which is a sum over ranks."""
    names = LEARNED if torch.is_grad_enabled() else ()
    return [name for name in names if (tensor := getattr(tensors, name)) is not None and tensor.requires_grad]


def run_sharded(call: CheckedCall) -> tuple[Tensor, Tensor]:
    """Return the loss of all ranks and the coefficients.

    With ``reduction="none"``, the values of elements or labels are those of this rank.
    """
    shards, options = call.shards, call.options
    assert shards is not None
    if call.term.grouping in ("samples", "micro"):
        value, coefficients, _ = _Spanning.apply(call.logits, *call.tensors, options, shards)
        return value, coefficients
    run = fused_pair if call.term.spec.second_logits else fused_loss
    value, coefficients = run(call.logits, call.tensors, options)
    if _ops.REDUCTIONS[options.reduction] != "none":
        value = total_over(value, shards)
    return value, coefficients


class _Spanning(torch.autograd.Function):
    """A loss whose groups span ranks. Its backward is that of ``_FusedLoss`` from logits and coefficients."""

    @staticmethod
    @positional
    def forward(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *given, options, shards = arguments
        ops, tensors = getattr(torch.ops, options.namespace), TensorArguments(*given)
        shared = (logits, *shared_arguments(tensors, options))
        statistics = shards.gather(ops.loss_statistics(*shared))
        second_sums = statistics.new_empty(0)
        if _ops.counts_of(options.loss).second_pass_sums:
            second_sums = shards.gather(ops.loss_second_pass(ops.loss_merge(statistics, options.loss), *shared))
        rows, dtype = logits.shape[0], _ops.compute_dtype(logits)
        value, coefficients = finished(statistics, second_sums, tensors, options, rows, dtype)
        return value, coefficients, value.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, *tensors, options, _ = inputs
        _, coefficients, anchor = output
        ctx.mark_non_differentiable(coefficients)
        ctx.set_materialize_grads(False)
        ctx.options = options
        ctx.save_for_backward(anchor, logits, coefficients, *tensors)

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> tuple[Any, ...]:
        return backward_from_logits(ctx, grad_outputs[0])


def finished(
    statistics: Tensor, second_sums: Tensor, tensors: TensorArguments, options: Options, rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the value and the coefficients from the statistics and second-pass sums of all parts."""
    ops = getattr(torch.ops, options.namespace)
    numbers = options.grouping, options.reduction, rows, dtype
    inputs = statistics, second_sums, tensors.sample_weight, tensors.normalizer
    found: tuple[Tensor, Tensor] = ops.loss_finalize(*inputs, options.loss, list(options.parameters), *numbers)
    return found


class _Whole(torch.autograd.Function):
    """The columns of all ranks. Every rank computes the same gradient of them, and returns its own columns of it."""

    @staticmethod
    def forward(local: Tensor, shards: LabelShards) -> Tensor:
        return _columns_of_all(local, shards)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.own = inputs[1].own

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0][..., ctx.own], None


def _columns_of_all(local: Tensor, shards: LabelShards) -> Tensor:
    widest = max(shards.sizes)
    padded = local.new_zeros((*local.shape[:-1], widest))
    padded[..., : local.shape[-1]] = local
    return torch.cat([part[..., :size] for part, size in zip(shards.gather(padded), shards.sizes, strict=True)], -1)


_UNKNOWN = -12345  # replaces the ranks' own marks of unknown targets


def whole_call(call: CheckedCall, targets: Any, everything: bool, logits: ShardedLogits) -> CheckedCall:
    """Return a call with the logits of all ranks on each rank, for a backend that does not support parts."""
    shards, rows = logits.shards, call.logits.shape[0]
    whole: Tensor = _Whole.apply(logits.local.reshape(rows, logits.local.shape[-1]), shards)
    if everything:
        targets = targets.label_range(shards.own.start, shards.own.stop)
    options = call.options
    if not call.term.spec.second_logits:  # layout and dtype of targets may differ between ranks
        targets, options = _as_one_dtype(targets, call), options._replace(ignore_index=_UNKNOWN)
    targets = _Whole.apply(targets.reshape(rows, logits.local.shape[-1]), shards)
    return call._replace(logits=whole, targets=targets, options=options, shards=None)


def _as_one_dtype(targets: Any, call: CheckedCall) -> Tensor:
    """Return dense targets in the compute dtype, with ``_UNKNOWN`` for unknown labels."""
    ignored = call.options.ignore_index
    if isinstance(targets, CSRTargets):
        dense = targets.to_dense()
        unknown = dense < 0
    else:
        dense = targets if targets.is_floating_point() or targets.dtype == torch.bool else targets.clamp(max=1)
        unknown = torch.zeros_like(targets, dtype=torch.bool) if ignored is None else equal_to(targets, ignored)
    return dense.to(_ops.compute_dtype(call.logits)).masked_fill(unknown, _UNKNOWN)


# From here on, dispatch passes every call with sharded logits to this module.
_dispatch.serve_sharded(_dispatch.ShardedEngine(as_sharded, prepare, evaluate_kept))
