"""Checks of the head's arguments, before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _validation as check
from ..losses._module import LossModule
from ..sharding.shards import LabelShards, is_dtensor
from .updates import FusedUpdate

__all__ = [
    "check_count",
    "check_input",
    "check_loss",
    "check_optional_count",
    "check_share",
    "check_steppable",
    "check_update",
    "planned_as",
    "product_dtype",
]


# The nodes of the input's graph that are searched for float16, nearest first: enough for a normalisation, a pooling
# and the cast.
_SEARCHED_NODES = 32


def check_count(name: str, value: Any) -> int:
    """Check for an int >= 1."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name}: expected >= 1, got {value}")
    return value  # type: ignore[return-value]


def check_optional_count(name: str, value: Any) -> int | None:
    """Check for an int >= 1 or None."""
    return None if value is None else check_count(name, value)


def check_loss(loss: Any, device_type: str = "cpu") -> None:
    """Check for a loss module whose passes on this type of device can be split into chunks."""
    if not isinstance(loss, LossModule):
        raise TypeError(f"loss: expected a loss module of mlloss_cuda, got {loss!r}")
    for term in loss.terms_on(device_type):
        if term.spec.second_logits:
            raise TypeError(f"loss: expected a loss of logits and targets, got {loss!r}, which takes two logits")
        if term.alone:
            raise ValueError(f"loss: expected a loss that one pass evaluates, got {loss!r}; leave out rescale")
        if loss.reduction == "none" and term.grouping == "element":
            raise ValueError(
                "loss: expected a reduction other than 'none' for an element-wise loss (also in a sum that takes "
                "several passes on this device), got 'none'"
            )


def check_steppable(weight: Tensor) -> None:
    """Check for a dtype that fused updates support."""
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise TypeError(f"fused_update: expected float32, bfloat16 or float64 weights, got {weight.dtype}")


def check_update(update: FusedUpdate, inputs: Tensor, parameters: list[Tensor], reference: bool) -> None:
    """Check that a call can step these parameters."""
    if inputs.dtype == torch.float16:
        raise TypeError(
            "fused_update: expected products in bfloat16 or float32, got float16, whose loss scale would enter the step"
        )
    if reference:
        raise ValueError("fused_update: expected a backend with kernels, got the reference")
    if update.grad_scaler is None and _computed_in_half(inputs):
        raise ValueError(
            "fused_update: expected a grad_scaler for an input that was computed in float16, got None. Set the "
            "loss's scaler, fused_update.grad_scaler = scaler; use GradScaler(enabled=False) if nothing is scaled"
        )
    for parameter in parameters:
        update.check_parameter(parameter)


def _computed_in_half(inputs: Tensor) -> bool:
    """Return whether one of the last operations before the input was in float16, whose gradients need a loss scale."""
    found: list[Any] = [] if inputs.grad_fn is None else [inputs.grad_fn]
    seen: set[Any] = set()
    while found and len(seen) < _SEARCHED_NODES:
        node = found.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if any(each.dtype == torch.float16 for each in getattr(node, "_input_metadata", ())):
            return True
        found += [before for before, _ in node.next_functions if before is not None]
    return False


def planned_as(tensor: Tensor) -> str:
    """Return the device type that a plan is for; a meta tensor is planned as on a CPU."""
    return "cpu" if tensor.is_meta else tensor.device.type


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that ``F.linear`` would use for this tensor."""
    kind = planned_as(tensor)
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return tensor.dtype
    return torch.get_autocast_dtype(kind)


def check_share(weight: Tensor, shards: LabelShards | None) -> None:
    """Check that the weight holds all labels of this rank."""
    if shards is not None and weight.shape[0] != shards.sizes[shards.rank]:
        raise ValueError(
            f"linear_weight: expected this rank's {shards.sizes[shards.rank]} labels, got {weight.shape[0]}; under "
            "FSDP, register methods other than forward with register_fsdp_forward_method"
        )


def check_input(inputs: Any, weight: Any, bias: Any) -> Tensor:
    """Check shapes, dtypes and devices, and return the input in the dtype of the products."""
    if is_dtensor(inputs):
        if not all(own.is_replicate() for own in inputs.placements):
            raise ValueError(f"input: expected a tensor, or a DTensor with Replicate(), got {tuple(inputs.placements)}")
        inputs = inputs.to_local()
    for name, value, dim in (("linear_weight", weight, 2), ("linear_bias", bias, 1)):
        if value is None and dim == 1:
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype not in check.LOGITS_DTYPES:
            raise TypeError(f"{name}: expected a dense floating tensor, got {check.received(value)}")
        if value.dim() != dim:
            raise ValueError(f"{name}: expected {'[L, D]' if dim == 2 else '[L]'}, got shape {tuple(value.shape)}")
    if not isinstance(inputs, Tensor) or inputs.layout != torch.strided or inputs.dtype not in check.LOGITS_DTYPES:
        raise TypeError(f"input: expected a dense floating tensor [..., D], got {check.received(inputs)}")
    if inputs.dim() == 0 or inputs.shape[-1] != weight.shape[1]:
        raise ValueError(f"input: expected shape [..., {weight.shape[1]}], got {tuple(inputs.shape)}")
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise ValueError(f"linear_bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    dtype = product_dtype(inputs)
    for name, value in (("linear_weight", weight), ("linear_bias", bias)):
        if value is None:
            continue
        if value.device != inputs.device:
            raise ValueError(f"{name}: expected on the input's device {inputs.device}, got {value.device}")
        if product_dtype(value) != dtype:
            raise TypeError(f"{name}: expected the input's dtype {inputs.dtype}, got {value.dtype}")
    return inputs.to(dtype)
