"""The rule of the fused losses for ``torch.vmap``: the rows of all samples become the rows of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from . import _ops

if TYPE_CHECKING:
    from ._call import Options, TensorArguments

__all__ = ["check_not_batched", "is_batched", "losses_of_samples"]

_BATCHED = ("targets", "sample_weight")  # the tensors that may differ from sample to sample


def losses_of_samples(
    size: int,
    in_dims: tuple[int | None, ...],
    logits: Tensor,
    tensors: TensorArguments,
    options: Options,
    form: bool,
    call: Callable[..., Any],
    backward: Callable[..., Tensor],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Return the results for ``size`` samples, each with ``[rows, L]`` logits, and the results' batch dimensions.

    ``call(logits, tensors, options)`` returns a loss for each row or element, and the coefficients;
    ``backward(logits, tensors, options, coefficients, grad_output)`` returns the gradient of the logits.
    """
    dims = dict(zip(tensors._fields, in_dims[1:], strict=False))
    _check(dims, tensors, options)
    stacked = _stacked(logits, in_dims[0], size)
    rows, labels = stacked.shape[1:]
    flat = stacked.reshape(size * rows, labels)
    own: dict[str, Any] = {}
    for name in _BATCHED:
        tensor = getattr(tensors, name)
        if tensor is not None:
            tensor = _stacked(tensor, dims[name], size)
            own[name] = tensor.reshape(size * rows, *tensor.shape[2:])
    flat_tensors = tensors._replace(**own, normalizer=None)
    each = options._replace(reduction=_ops.REDUCTIONS.index("none"), keep=form or options.keep)
    values, coefficients = call(flat, flat_tensors, each)
    count = {"mean": values.shape[1:].numel() * rows, "batchmean": rows}.get(_ops.REDUCTIONS[options.reduction])
    divisor: Any = count if tensors.normalizer is None else tensors.normalizer
    share = 1 if divisor is None else torch.ones((), dtype=values.dtype, device=values.device) / divisor
    value = values.view(size, rows, *values.shape[1:])
    if _ops.REDUCTIONS[options.reduction] != "none":
        value = value.flatten(1).sum(1) * share
    gradient = logits.new_empty(size, 0)
    if form:
        grad_output = (torch.ones_like(values) * share).detach()
        gradient = backward(flat.detach(), flat_tensors, each, coefficients, grad_output).view(size, rows, labels)
    if _ops.GROUPINGS[options.grouping] == "samples":
        coefficients = coefficients.unflatten(-1, (size, rows))
        return (value, coefficients, gradient, value.new_empty(size, 0)), (0, 1, 0, 0)
    return (value, coefficients, gradient, value.new_empty(size, 0)), (0, None, 0, 0)


def _stacked(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _check(dims: dict[str, int | None], tensors: TensorArguments, options: Options) -> None:
    if tensors.crow_indices is not None:
        _refuse("CSRTargets hold no dimension of samples")
    for name, dim in dims.items():
        if dim is not None and name not in _BATCHED:
            _refuse(f"{name} differs from sample to sample")
    if _ops.GROUPINGS[options.grouping] not in ("element", "samples"):
        _refuse("its groups cross rows")
    if options.keep and _ops.GROUPINGS[options.grouping] == "element":
        _refuse("a sum of element-wise losses keeps the value of each term")
    if options.in_place:
        _refuse("inplace_backward is set")


def is_batched(tensor: Tensor) -> bool:
    """Return whether the tensor has a value for each sample of a ``vmap`` that is active."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def check_not_batched(*tensors: Tensor | None) -> None:
    """Check that no tensor has a value for each sample, because the ops for gradients have no rule for ``vmap``.

    torch falls back to one call for each sample, on slices of the tensors. The ops assume contiguous coefficients and
    row weights, and would return wrong gradients for slices with other strides.
    """
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return
    if any(tensor is not None and is_batched(tensor) for tensor in tensors):
        _refuse(
            "the gradient of a sample needs logits other than float16, a reduction other than 'none', one vmap, and "
            "nothing else that is learned"
        )


def _refuse(why: str) -> NoReturn:
    raise NotImplementedError(
        f"mlloss_cuda: the kernels do not serve this loss under vmap: {why}. Call it under "
        'mlloss_cuda.use_backend("reference"), which consists of PyTorch operations.'
    )
