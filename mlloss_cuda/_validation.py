"""Checks of what users pass. Each error names the argument, the value it got and the values it takes.

The checks read values in tensors on the CPU only, and not under ``torch.compile``: on a GPU a read would
synchronise, and in a compiled graph it would be a graph break.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _ops
from ._vmap import is_batched
from .targets import CSRTargets, as_int

__all__ = [
    "are_plain",
    "check_bool",
    "check_choice",
    "check_constant",
    "check_divides_a_sum",
    "check_ignore_index",
    "check_label_smoothing",
    "check_logits",
    "check_normalizer",
    "check_number",
    "check_other_logits",
    "check_targets",
    "check_tensor",
    "readable",
    "received",
]

LOGITS_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGER_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_TARGET_DTYPES = LOGITS_DTYPES + INTEGER_DTYPES


def received(value: Any) -> str:
    """Return a description of a value for error messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    shown = repr(value)
    return f"{shown if len(shown) <= 200 else shown[:200] + '...'} ({type(value).__name__})"


def readable(tensor: Tensor) -> bool:
    """Return whether a check may read the tensor's values."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or isinstance(tensor, FakeTensor):
        return False
    # A read under make_fx would become a part of the graph, or fail.
    tracing = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    return not tracing and not is_batched(tensor)


def are_plain(logits: Any, targets: Any) -> bool:
    """Return True if these are dense tensors that pass all checks of logits and targets; most calls need no others."""
    return (
        type(logits) is type(targets) is Tensor
        and not targets.requires_grad
        and logits.layout is targets.layout is torch.strided
        and not logits.is_nested
        and logits.dtype in LOGITS_DTYPES
        and targets.dtype in _TARGET_DTYPES
        and logits.dim() > 0
        and logits.shape == targets.shape
        and logits.device == targets.device
    )


def check_logits(logits: Any) -> Tensor:
    """Check that ``logits`` is a floating, strided tensor with a dimension of labels, and return it."""
    if type(logits) is not Tensor:
        if hasattr(logits, "full_tensor"):
            raise TypeError("logits: expected a tensor of all labels, got a DTensor; pass its full_tensor()")
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits: expected a tensor [..., L], got {received(logits)}")
    if logits.layout != torch.strided:
        raise TypeError(f"logits: expected a dense (strided) tensor, got layout {logits.layout}")
    if logits.is_nested:
        raise TypeError("logits: expected a dense tensor, got a nested one; concatenate its rows")
    if logits.dtype not in LOGITS_DTYPES:
        raise TypeError(f"logits: expected float32, bfloat16, float16 or float64, got {logits.dtype}")
    if logits.dim() == 0:
        raise ValueError("logits: expected shape [..., L], got a 0-d tensor")
    return logits


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Check for a finite real number between ``low`` and ``high``, and return it as a float."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{name}: expected a number, got {received(value)}")
    try:
        number = float(value)
    except OverflowError:  # The int is larger than every float.
        number = math.inf
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    # math.isfinite would not accept a number that torch.compile has made symbolic; comparisons do.
    if -math.inf < number < math.inf and above and below:
        return number
    left, right = ("(" if open_low else "["), (")" if open_high else "]")
    raise ValueError(f"{name}: expected a finite number in {left}{low}, {high}{right}, got {value!r}")


def check_label_smoothing(value: Any) -> float:
    if type(value) is float and 0.0 <= value < 1.0:
        return value
    return check_number("label_smoothing", value, 0.0, 1.0, open_high=True)


def check_normalizer(value: Any) -> float:
    """Check a normalizer that is not a tensor."""
    return check_number("normalizer", value, 0.0)


def check_divides_a_sum(normalizer: Any, reduction: str) -> None:
    """Check that a normalizer, if there is one, comes with the reduction that it divides."""
    if normalizer is not None and reduction != "sum":
        raise ValueError(f"normalizer: expected reduction='sum' with it, got reduction={reduction!r}")


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {received(value)}")
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {listed}, got {received(value)}")
    raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def check_ignore_index(value: Any) -> int | None:
    """Check the index and return it as engines take it: an int, with ``IGNORE_NAN`` for NaN."""
    if value is None:
        return None
    if isinstance(value, float) and value != value:
        return _ops.IGNORE_NAN
    value = as_int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"ignore_index: expected an int, float('nan') or None, got {received(value)}")
    if value in (0, 1):
        raise ValueError(f"ignore_index: {value} is a label; expected another value, by convention -1")
    if not -(2**63) <= value < _ops.IGNORE_NAN:
        raise ValueError(f"ignore_index: expected a 64-bit int below 2**63 - 1, got {value}")
    index: int = value
    return index


def check_constant(name: str, value: Any) -> None:
    """Check that a tensor without a gradient formula does not require a gradient."""
    hint = f"pass {name}.detach()"
    if isinstance(value, CSRTargets):
        value, hint = value.values, "make them from values.detach()"
    if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: expected a tensor that requires no gradient, because losses compute none for it; {hint}"
        )


def check_tensor(
    name: str,
    value: Any,
    shape: tuple[int, ...],
    logits: Tensor,
    *,
    low: float = -math.inf,
    open_low: bool = True,
    finite: bool = True,
) -> Tensor:
    """Check for a tensor of exactly ``shape`` with finite values above ``low``; return it in the compute dtype.

    With ``finite=False`` the values are not read.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {shape}, got {received(value)}")
    if value.dtype.is_complex or value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense real tensor, got {value.dtype}, {value.layout}")
    if value.device != logits.device:
        raise ValueError(f"{name}: expected on the logits' device {logits.device}, got {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    tensor = value.to(_ops.compute_dtype(logits)).contiguous()
    if finite and readable(tensor) and tensor.numel():
        # If there is a NaN, the minimum is NaN.
        least, most = map(Tensor.item, tensor.detach().aminmax())
        if not ((least > low if open_low else least >= low) and most < math.inf):
            bound = "" if low == -math.inf else f" {'>' if open_low else '>='} {low:g}"
            raise ValueError(f"{name}: expected finite values{bound}, got values that are not")
    return tensor


def check_other_logits(other: Any, logits: Tensor) -> Tensor:
    """Check the second of two logits, which may differ from the first in values and strides only."""
    if not isinstance(other, Tensor):
        raise TypeError(
            f"other_logits: expected a tensor of the logits' shape {tuple(logits.shape)}, got {received(other)}"
        )
    if other.layout != torch.strided:
        raise TypeError(f"other_logits: expected a dense (strided) tensor, got layout {other.layout}")
    if other.dtype != logits.dtype:
        raise TypeError(f"other_logits: expected the logits' dtype {logits.dtype}, got {other.dtype}")
    if other.shape != logits.shape:
        raise ValueError(f"other_logits: expected the logits' shape {tuple(logits.shape)}, got {tuple(other.shape)}")
    if other.device != logits.device:
        raise ValueError(f"other_logits: expected on the logits' device {logits.device}, got {other.device}")
    return other


def check_dense(name: str, targets: Any) -> None:
    """Check the type, layout and dtype of targets that are not sparse."""
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"{name}: expected a dense tensor, a CSRTargets or a sparse_csr tensor, got {received(targets)}"
        )
    if targets.layout != torch.strided:
        raise TypeError(f"{name}: expected a strided or sparse_csr tensor, got layout {targets.layout}")
    if targets.dtype not in _TARGET_DTYPES:
        raise TypeError(f"{name}: expected a bool, integer or floating dtype, got {targets.dtype}")


def check_targets(targets: Any, logits: Tensor) -> Tensor | CSRTargets:
    """Check targets, and return them without a gradient: dense ones, or CSR targets as ``CSRTargets``."""
    if not isinstance(targets, Tensor) or targets.requires_grad:
        check_constant("targets", targets)
        if isinstance(targets, Tensor):
            targets = targets.detach()
    if isinstance(targets, Tensor) and targets.layout == torch.sparse_csr:
        targets = CSRTargets.from_sparse(targets)
    if isinstance(targets, CSRTargets):
        labels, rows = logits.shape[-1], math.prod(logits.shape[:-1])
        if targets.num_labels != labels:
            raise ValueError(f"targets: expected {labels} labels, as the logits have, got {targets.num_labels}")
        if len(targets) != rows:
            raise ValueError(f"targets: expected {rows} rows, as the logits have, got {len(targets)}")
        if targets.device != logits.device:
            raise ValueError(f"targets: expected on the logits' device {logits.device}, got {targets.device}")
        return targets
    check_dense("targets", targets)
    if targets.shape != logits.shape:
        raise ValueError(f"targets: expected the logits' shape {tuple(logits.shape)}, got {tuple(targets.shape)}")
    if targets.device != logits.device:
        raise ValueError(f"targets: expected on the logits' device {logits.device}, got {targets.device}")
    return targets
