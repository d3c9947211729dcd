"""The ops of ``_ops`` on the Triton kernels: memory, tiles, launches. Nothing here waits for the GPU."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .. import _ops
from .._call import Options, TensorArguments, shared_arguments
from . import kernels
from . import plan as plans
from .call import Arguments, Call, GradOutput, Results, Tile, call_of, call_without_logits, groups_of, ignores_nan
from .functor import ElementWise, Group
from .plan import Plan, Shape
from .terms import JOINED_BY, compound_of
from .tuning import DeviceFacts, family_of

__all__ = ["describe", "functor_of", "implementations"]

_TOTAL_COLUMNS, _MANY_PARTS = (1024, 16384), 4096
_MERGE_ELEMENTS = {tl.float32: 1024, tl.float64: 256}
_SCALE_COLUMNS = 4096


@functools.cache
def functor_of(loss: str) -> ElementWise | Group:
    """Return the functor from the module with the loss's registry name; a compound's name lists its terms."""
    if JOINED_BY in loss:
        return compound_of([functor_of(term) for term in loss.split(JOINED_BY)])
    functor: ElementWise | Group = importlib.import_module(f"{__package__}.{loss}").FUNCTOR
    return functor


# ---- devices -------------------------------------------------------------------------------------------


@functools.cache
def _facts(device_type: str, index: int) -> DeviceFacts:
    if device_type == "cpu":  # the interpreter
        return DeviceFacts("cuda", 4, 1 << 20)
    if device_type == "xpu":
        found = torch.xpu.get_device_properties(index)
        return DeviceFacts("xpu", int(found.gpu_subslice_count), 1 << 25)
    properties = torch.cuda.get_device_properties(index)
    amd = "rdna" if getattr(properties, "warp_size", 64) == 32 else "hip"
    kind = amd if torch.version.hip else "cuda"
    capability = None if torch.version.hip else 10 * properties.major + properties.minor
    return DeviceFacts(family_of(kind, capability), properties.multi_processor_count, int(properties.L2_cache_size))


def _facts_of(tensor: Tensor) -> DeviceFacts:
    return _facts(tensor.device.type, tensor.device.index or 0)


def _on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's device current, because Triton launches on the current device."""
    if tensor.device.type == "cpu":
        return nullcontext()
    index = tensor.device.index
    return nullcontext() if torch.accelerator.current_device_index() == index else torch.accelerator.device_index(index)


def run(kernel: Any, programs: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Launch a kernel. Every launch of this engine calls this function, which ahead-of-time tests replace."""
    kernel[(programs,)](*arguments, **options)


def launch(kernel: Any, programs: int, *arguments: Any, warps: int = 4, registers: int | None = None) -> None:
    """Launch a kernel with this number of programs."""
    if programs == 0:
        return
    # Fused multiply-adds are intended, and no longer the default from Triton 3.10 on.
    options: dict[str, Any] = {"num_warps": warps, "enable_fp_fusion": True}
    if registers is not None:
        options["maxnreg"] = registers
    run(kernel, programs, arguments, options)


def launch_plan(kernel: Any, plan: Plan, *arguments: Any) -> None:
    """Launch a kernel by its plan."""
    launch(kernel, plan.programs, *arguments, warps=plan.warps, registers=plan.registers)


def describe(rows: int, labels: int, dtype: torch.dtype, element_wise: bool) -> tuple[str, int]:
    """Describe the plan of a pass on the current device, and count its reads of the logits from memory."""
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        facts = _facts(device.type if device else "cpu", torch.accelerator.current_device_index())
    else:
        facts = _facts("cpu", 0)
    shape = Shape(rows, labels, dtype.itemsize, labels % plans.GROUP == 0)
    plan = (plans.plan_units if element_wise else plans.plan_rows)(shape, facts)
    return str(plan), plans.reads_from_memory(plan, shape, facts)


# ---- tiles and memory ------------------------------------------------------------------------------------


def _boundaries(stride: int) -> bool:
    return stride % plans.GROUP == 0


def _into(gradient: Tensor | None) -> Results:
    return Results() if gradient is None else Results(gradient=gradient, gradient_row=gradient.stride(0))


def _tile(logits: Tensor, a: Arguments, plan: Plan, down_rows: bool = False, gradient_row: int | None = None) -> Tile:
    # A tile that goes down the rows has the same label in a column of every row, so rows are not shifted.
    wide = logits.stride(1) == 1 and not down_rows
    together = a.targets is not None and a.targets.stride(1) == 1
    soft = a.label_smoothing > 0 or (a.values is not None if a.targets is None else a.targets.is_floating_point())
    return Tile(
        rows=plan.rows,
        columns=plan.columns,
        dtype=tl.float64 if logits.dtype == torch.float64 else tl.float32,
        wide=wide,
        wide_targets=wide
        and a.targets is not None
        and together
        and _boundaries(a.targets.stride(0) - logits.stride(0)),
        wide_gradient=wide and gradient_row is not None and _boundaries(gradient_row - logits.stride(0)),
        masked=plan.rows > 1 or not wide,
        soft=soft,
        crosses_rows=a.group in ("macro", "micro"),
        softmax_over_labels=functor_of(a.loss).softmax_over_labels,
        second_logits=functor_of(a.loss).second_logits,
        ignores_nan=ignores_nan(a),
    )


def _shape(logits: Tensor, a: Arguments) -> Shape:
    aligned = _boundaries(logits.stride(0)) or logits.stride(1) != 1
    functor = functor_of(a.loss)
    statistics = _statistics(functor) if isinstance(functor, Group) and functor.terms else 0
    return Shape(logits.shape[0], logits.shape[1], logits.element_size(), aligned, statistics)


def _nnz(a: Arguments) -> int:
    return 0 if a.col_indices is None else a.col_indices.shape[0]


def _empty(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=_ops.compute_dtype(like))


# ---- forward -------------------------------------------------------------------------------------------


def _new_value(logits: Tensor, a: Arguments) -> Tensor:
    if a.reduce != "none" or a.group == "micro":
        return _empty(logits)
    return _empty(logits, *logits.shape) if a.group == "element" else _empty(logits, groups_of(logits, a.group))


_NO_CALL = Call._make([None] * len(Call._fields))


def _of_groups(call: Call) -> Call:
    """Keep only the arguments of whole groups, so that one compiled kernel serves all kinds of logits and targets."""
    return _NO_CALL._replace(sample_weight=call.sample_weight, normalizer=call.normalizer, numbers=call.numbers)


def _total(call: Call, parts: Tensor, value: Tensor) -> None:
    columns = _TOTAL_COLUMNS[parts.numel() > _MANY_PARTS]
    call = _of_groups(call)._replace(sample_weight=None, numbers=call.numbers._replace(parameters=()))
    launch(kernels.total, 1, call, parts, value, parts.numel(), columns, warps=max(4, columns // 1024))


def _forward_elements(logits: Tensor, a: Arguments, value: Tensor, gradient: Tensor | None) -> None:
    call, plan = call_of(logits, a), plans.plan_units(_shape(logits, a), _facts_of(logits))
    reduced = a.reduce != "none"
    parts = _empty(logits, plan.programs) if reduced else None
    results = _into(gradient)._replace(losses=None if reduced else value)
    tile = _tile(logits, a, plan, gradient_row=results.gradient_row)
    shape = (logits.shape[0], _nnz(a), plan.tiles)
    launch_plan(kernels.element_wise, plan, call, functor_of(a.loss), results, parts, *shape, tile)
    if parts is not None:
        _total(call, parts, value)


def _forward_groups(
    logits: Tensor, a: Arguments, functor: Group, value: Tensor, coefficients: Tensor, gradient: Tensor | None
) -> None:
    call, groups = call_of(logits, a), groups_of(logits, a.group)
    values = value if a.reduce == "none" else _empty(logits, groups)
    results = Results(losses=values, coefficients=coefficients)
    if a.group == "macro":
        _statistics_of_labels(call, logits, a, functor, results)
    else:
        second_pass = functor.second_pass_sums is not None
        plan = plans.plan_rows(_shape(logits, a), _facts_of(logits), a.group == "micro", second_pass)
        if plan.strategy == "streaming":
            results = _into(gradient)._replace(losses=values, coefficients=coefficients)
            tile = _tile(logits, a, plan, gradient_row=results.gradient_row)
            arguments = (logits.shape[0], _nnz(a), plan.tiles, groups, tile)
            launch_plan(kernels.streaming, plan, call, functor, results, *arguments)
            gradient = None
        else:
            _statistics_of_rows(call, logits, a, functor, results, plan)
    if gradient is not None:
        _gradients(call, logits, a, coefficients, GradOutput(), _into(gradient))
    if a.reduce != "none":
        _total(call, values, value)


def _statistics(functor: Group) -> int:
    count: int = functor.maxima_count.value + functor.sums_count.value
    return count


def _parts(logits: Tensor, functor: Group, splits: int, groups: int) -> Tensor:
    return _empty(logits, _statistics(functor), splits, groups)


def _parts_of_rows(call: Call, logits: Tensor, a: Arguments, functor: Group, plan: Plan) -> tuple[Tensor, Tile]:
    groups = groups_of(logits, a.group)
    parts, tile = _parts(logits, functor, plan.splits, groups), _tile(logits, a, plan)
    shape = (logits.shape[0], _nnz(a), plan.tiles, plan.run, plan.splits, groups)
    launch_plan(kernels.statistics, plan, call, functor, parts, *shape, tile)
    return parts, tile


def _statistics_of_rows(call: Call, logits: Tensor, a: Arguments, functor: Group, results: Results, plan: Plan) -> None:
    parts, tile = _parts_of_rows(call, logits, a, functor, plan)
    _merge(call, a.grouping, functor, parts, results, tile)


def _statistics_of_labels(call: Call, logits: Tensor, a: Arguments, functor: Group, results: Results) -> None:
    plan = plans.plan_down_rows(_shape(logits, a), _facts_of(logits))
    groups = logits.shape[1]
    parts, tile = _parts(logits, functor, plan.splits, groups), _tile(logits, a, plan, down_rows=True)
    shape = (logits.shape[0], _nnz(a), plan.run, plan.splits)
    launch_plan(kernels.label_statistics, plan, call, functor, parts, *shape, tile)
    _merge(call, a.grouping, functor, parts, results, tile)


def _merging(parts: Tensor, tile: Tile) -> tuple[int, Tile]:
    """Return the number of programs that merge, and their tile."""
    _, splits, groups = parts.shape
    elements = _MERGE_ELEMENTS[tile.dtype]
    columns = min(elements, max(2, plans.power_of_two(splits)))
    rows = min(elements // columns, plans.power_of_two(max(1, groups)))
    return -(-groups // rows), tile._replace(rows=rows, columns=columns)


def _merge(
    call: Call,
    grouping: int,
    functor: Group,
    parts: Tensor,
    results: Results,
    tile: Tile,
    second_sums: Tensor | None = None,
) -> None:
    programs, tile = _merging(parts, tile)
    launch(
        kernels.merge,
        programs,
        _of_groups(call),
        functor,
        parts,
        second_sums,
        results,
        *parts.shape[1:],
        tile,
        grouping,
    )


def _forward(logits: Tensor, a: Arguments, keep: bool, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    functor, value = functor_of(a.loss), _new_value(logits, a)
    with _on_device_of(logits):
        if isinstance(functor, ElementWise):
            _forward_elements(logits, a, value, gradient)
            return value, _empty(logits, 0, 0)
        coefficients = _empty(logits, functor.coefficients.value, groups_of(logits, a.group))
        _forward_groups(logits, a, functor, value, coefficients, gradient)
    return value, coefficients if keep else _empty(logits, 0, 0)


# ---- backward ------------------------------------------------------------------------------------------


def _grad_output(grad_output: Tensor, group: str) -> GradOutput:
    if grad_output.dim() == 0:
        return GradOutput(grad_output, 0)
    if group == "element":
        return GradOutput(grad_output, *grad_output.stride())
    if group == "macro":
        return GradOutput(grad_output, 0, grad_output.stride(0))
    return GradOutput(grad_output, grad_output.stride(0))


def _gradients(
    call: Call, logits: Tensor, a: Arguments, coefficients: Tensor, grad_output: GradOutput, results: Results
) -> None:
    """Launch gradients from coefficients; ``row_sums`` and ``scale_sums`` have one value for each tile."""
    plan = plans.plan_units(_shape(logits, a), _facts_of(logits))
    shape = (logits.shape[0], _nnz(a), plan.tiles)
    tile = _tile(logits, a, plan, gradient_row=results.gradient_row)
    launch_plan(
        kernels.backward,
        plan,
        *(call, functor_of(a.loss), coefficients, grad_output, results, *shape, tile, a.grouping),
    )


def _label_sums(logits: Tensor, a: Arguments, coefficients: Tensor, grad_output: GradOutput) -> Tensor:
    plan = plans.plan_down_rows(_shape(logits, a), _facts_of(logits))
    parts = _empty(logits, plan.splits, logits.shape[1])
    shape = (logits.shape[0], _nnz(a), plan.run, plan.splits)
    tile = _tile(logits, a, plan, down_rows=True)
    launch_plan(
        kernels.label_gradient,
        plan,
        *(call_of(logits, a), functor_of(a.loss), coefficients, grad_output, parts, *shape, tile, a.grouping),
    )
    return parts.sum(0)


def _backward(
    logits: Tensor, a: Arguments, coefficients: Tensor, grad_output: Tensor, needs: Sequence[bool],
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    need_row, need_scale, need_label = needs
    output = _grad_output(grad_output, a.group)
    with _on_device_of(logits):
        # This comes first, because an in-place gradient overwrites the logits.
        label = _label_sums(logits, a, coefficients, output) if need_label else _empty(logits, 0)
        tiles = plans.plan_units(_shape(logits, a), _facts_of(logits)).tiles
        row = _empty(logits, logits.shape[0], tiles) if need_row else None
        scale = _empty(logits, logits.shape[0], tiles) if need_scale else None
        if gradient is not None or need_row or need_scale:
            results = _into(gradient)._replace(row_sums=row, scale_sums=scale)
            _gradients(call_of(logits, a), logits, a, coefficients, output, results)
        row_sums, scale_sums = (_empty(logits, 0) if sums is None else sums.sum(1) for sums in (row, scale))
        return row_sums, scale_sums, label


# ---- two logits ----------------------------------------------------------------------------------------


def _pair(logits: Tensor, a: Arguments, grad_output: GradOutput, parts: Tensor | None, plan: Plan) -> Results:
    """Launch the gradients of both logits, and the sums of the values of each program unless ``parts`` is None."""
    gradient, other = logits.new_empty(logits.shape), logits.new_empty(logits.shape)
    results = _into(gradient)._replace(other_gradient=other)
    tile = _tile(logits, a, plan, gradient_row=results.gradient_row)
    shape = (logits.shape[0], _nnz(a), plan.tiles)
    call = call_of(logits, a)
    launch_plan(kernels.pair, plan, call, functor_of(a.loss), grad_output, results, parts, *shape, tile)
    return results


# ---- over a part of the labels -------------------------------------------------------------------------
# Statistics of groups are float64, [statistics, groups], whatever dtype they were summed in.

# The tile of kernels that merge statistics and read no logits.
_WIDE = Tile(1, 1, tl.float64, False, False, False, False, False, False, False, False)


def _group_functor(loss: str) -> Group:
    functor = functor_of(loss)
    assert isinstance(functor, Group), loss
    return functor


def _wide(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float64)


def _join(functor: Group, parts: Tensor) -> Tensor:
    """Merge [statistics, parts, groups] to [statistics, groups]."""
    joined = _wide(parts, parts.shape[0], parts.shape[2])
    programs, tile = _merging(parts, _WIDE)
    launch(kernels.join, programs, functor, parts, joined, *parts.shape[1:], tile)
    return joined


# ---- the ops -------------------------------------------------------------------------------------------


def loss_forward(keep: bool, form: bool, logits: Tensor, *shared: Any) -> tuple[Tensor, Tensor, Tensor]:
    gradient = logits.new_empty(logits.shape if form else (0,))
    value, coefficients = _forward(logits, Arguments(*shared), keep, gradient if form else None)
    return value, coefficients, gradient


def loss_forward_(keep: bool, logits: Tensor, *shared: Any) -> tuple[Tensor, Tensor]:
    return _forward(logits, Arguments(*shared), keep, logits)


def loss_backward(
    coefficients: Tensor,
    grad_output: Tensor,
    need_logits: bool,
    need_row: bool,
    need_scale: bool,
    need_label: bool,
    logits: Tensor,
    *shared: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradient = logits.new_empty(logits.shape if need_logits else (0,))
    needs, into = (need_row, need_scale, need_label), gradient if need_logits else None
    return gradient, *_backward(logits, Arguments(*shared), coefficients, grad_output, needs, into)


def loss_backward_(
    coefficients: Tensor,
    grad_output: Tensor,
    need_row: bool,
    need_scale: bool,
    need_label: bool,
    logits: Tensor,
    *shared: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = need_row, need_scale, need_label
    return _backward(logits, Arguments(*shared), coefficients, grad_output, needs, logits)


def pair_forward(logits: Tensor, *shared: Any) -> tuple[Tensor, Tensor, Tensor]:
    a, value = Arguments(*shared), _empty(logits)
    with _on_device_of(logits):
        plan = plans.plan_units(_shape(logits, a), _facts_of(logits))
        parts = _empty(logits, plan.programs)
        results = _pair(logits, a, GradOutput(), parts, plan)
        _total(call_of(logits, a), parts, value)
    return value, results.gradient, results.other_gradient


def pair_backward(grad_output: Tensor, logits: Tensor, *shared: Any) -> tuple[Tensor, Tensor]:
    a = Arguments(*shared)
    with _on_device_of(logits):
        plan = plans.plan_units(_shape(logits, a), _facts_of(logits))
        results = _pair(logits, a, _grad_output(grad_output, a.group), None, plan)
    return results.gradient, results.other_gradient


def loss_statistics(logits: Tensor, *shared: Any) -> Tensor:
    a = Arguments(*shared)
    functor = _group_functor(a.loss)
    with _on_device_of(logits):
        plan = plans.plan_rows(_shape(logits, a), _facts_of(logits), a.group == "micro", statistics_only=True)
        return _join(functor, _parts_of_rows(call_of(logits, a), logits, a, functor, plan)[0])


def loss_second_pass(statistics: Tensor, logits: Tensor, *shared: Any) -> Tensor:
    a = Arguments(*shared)
    functor = _group_functor(a.loss)
    if functor.second_pass_sums is None:
        return _wide(logits, 0, groups_of(logits, a.group))
    second_sums = _wide(logits, functor.second_pass_count.value, logits.shape[0])
    with _on_device_of(logits):
        plan = plans.plan_rows(_shape(logits, a), _facts_of(logits), second_pass=True)
        shape = (logits.shape[0], _nnz(a), plan.tiles)
        arguments = (call_of(logits, a), functor, statistics, second_sums, *shape, _tile(logits, a, plan))
        launch_plan(kernels.second_pass_sums, plan, *arguments)
    return second_sums


def loss_merge(statistics: Tensor, loss: str) -> Tensor:
    with _on_device_of(statistics):
        return _join(_group_functor(loss), statistics.transpose(0, 1).contiguous())


def loss_finalize(
    statistics: Tensor,
    second_sums: Tensor,
    sample_weight: Tensor | None,
    normalizer: Tensor | None,
    loss: str,
    parameters: Sequence[float],
    grouping: int,
    reduction: int,
    rows: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    functor, groups = _group_functor(loss), statistics.shape[2]
    a = Arguments(*shared_arguments(TensorArguments(), Options(loss, tuple(parameters), grouping, reduction)))
    # For micro averages, sample weights are already in the statistics.
    call = call_without_logits(rows, a, sample_weight, normalizer)
    coefficients = statistics.new_empty((functor.coefficients.value, groups), dtype=dtype)
    reduced = a.reduce != "none"
    value = statistics.new_empty(() if reduced or a.group == "micro" else (groups,), dtype=dtype)
    values = _wide(statistics, groups) if reduced else value
    summed = second_sums.sum(0) if second_sums.numel() else None
    with _on_device_of(statistics):
        parts = statistics.transpose(0, 1).contiguous()
        _merge(call, grouping, functor, parts, Results(losses=values, coefficients=coefficients), _WIDE, summed)
        if reduced:
            _total(call, values, value)
    return value, coefficients


def scale_gradient_(gradient: Tensor, grad_output: Tensor) -> None:
    count = gradient.numel()
    programs = -(-count // _SCALE_COLUMNS)
    with _on_device_of(gradient):
        launch(kernels.scale, programs, gradient, grad_output, count, _SCALE_COLUMNS, warps=8)


def scale_gradient(gradient: Tensor, grad_output: Tensor) -> Tensor:
    scaled = gradient.clone()
    scale_gradient_(scaled, grad_output)
    return scaled


implementations = {
    "loss_forward": loss_forward,
    "loss_forward_": loss_forward_,
    "loss_backward": loss_backward,
    "loss_backward_": loss_backward_,
    "pair_forward": pair_forward,
    "pair_backward": pair_backward,
    "loss_statistics": loss_statistics,
    "loss_second_pass": loss_second_pass,
    "loss_merge": loss_merge,
    "loss_finalize": loss_finalize,
    "scale_gradient": scale_gradient,
    "scale_gradient_": scale_gradient_,
}
