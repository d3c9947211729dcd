"""Checks of what users pass. Each error names the argument, what came and what is taken.

Values in tensors are looked at on the CPU only, and not under ``torch.compile``: on a GPU a look is
a synchronisation, in a graph a break.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _ops
from .targets import CSRTargets

__all__ = [
    "came",
    "check_bool",
    "check_choice",
    "check_constant",
    "check_ignore_index",
    "check_logits",
    "check_number",
    "check_other_logits",
    "check_targets",
    "check_tensor",
    "readable",
]

LOGITS_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGER_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def came(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    return f"{value!r} ({type(value).__name__})"


def readable(tensor: Tensor) -> bool:
    """Whether a check may look at the tensor's values."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or isinstance(tensor, FakeTensor):
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):  # under vmap: there is one for each sample
            return False
        tensor = functorch.get_unwrapped(tensor)
    return True


def check_logits(logits: Any) -> Tensor:
    """Check for a floating, strided tensor that has a dimension of labels."""
    if type(logits) is not Tensor:
        if hasattr(logits, "full_tensor"):
            raise TypeError("logits: expected a tensor of all labels, got a DTensor: its full_tensor() is one")
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits: expected a tensor [..., L], got {came(logits)}")
    if logits.layout != torch.strided:
        raise TypeError(f"logits: expected a dense (strided) tensor, got layout {logits.layout}")
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
    """A finite real number in the interval that ``low``, ``high`` and the open ends describe."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{name}: expected a number, got {came(value)}")
    number = float(value)
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    # Comparisons, for math.isfinite takes no number that torch.compile has made symbolic.
    if -math.inf < number < math.inf and above and below:
        return number
    left, right = ("(" if open_low else "["), (")" if open_high else "]")
    raise ValueError(f"{name}: expected a finite number in {left}{low}, {high}{right}, got {value!r}")


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {came(value)}")
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(repr(choice) for choice in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {listed}, got {came(value)}")
    raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def check_ignore_index(value: Any) -> int | None:
    """The index as engines take it: an int, ``IGNORE_NAN`` in the place of NaN."""
    if value is None:
        return None
    if isinstance(value, float) and value != value:
        return _ops.IGNORE_NAN
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"ignore_index: expected an int, float('nan') or None, got {came(value)}")
    if value in (0, 1):
        raise ValueError(f"ignore_index: {value} is a label; expected another value, by convention -1")
    if not -(2**63) <= value < _ops.IGNORE_NAN:
        raise ValueError(f"ignore_index: expected a 64-bit int below 2**63 - 1, got {value}")
    return value


def check_constant(name: str, value: Any) -> None:
    """Tensors that losses are not differentiated in must not require a gradient."""
    if isinstance(value, CSRTargets):
        value = value.values
    if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: expected a tensor that requires no gradient, for losses have none in it, got one that does; "
            f"{name}.detach() is one"
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
    """A tensor beside the logits, in the compute dtype, of exactly ``shape``, finite and above ``low``.

    ``finite=False``: its values are not looked at.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {shape}, got {came(value)}")
    if value.dtype.is_complex or value.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense real tensor, got {value.dtype}, {value.layout}")
    if value.device != logits.device:
        raise ValueError(f"{name}: expected on the logits' device {logits.device}, got {value.device}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    tensor = value.to(_ops.compute_dtype(logits)).contiguous()
    if finite and readable(tensor) and tensor.numel():
        # A NaN is the minimum of all that it stands among.
        least, most = tensor.detach().aminmax()
        if not ((least > low if open_low else least >= low) and most < math.inf):
            bound = "" if low == -math.inf else f" {'>' if open_low else '>='} {low:g}"
            raise ValueError(f"{name}: expected finite values{bound}, got some that are not")
    return tensor


def check_other_logits(other: Any, logits: Tensor) -> Tensor:
    """The second of two logits: like the first in all but its strides."""
    if not isinstance(other, Tensor):
        raise TypeError(
            f"other_logits: expected a tensor of the logits' shape {tuple(logits.shape)}, got {came(other)}"
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
    """Targets that are not sparse: a tensor of a layout and dtype that may be."""
    if not isinstance(targets, Tensor):
        raise TypeError(f"{name}: expected a dense tensor, a CSRTargets or a sparse_csr tensor, got {came(targets)}")
    if targets.layout != torch.strided:
        raise TypeError(f"{name}: expected a strided or sparse_csr tensor, got layout {targets.layout}")
    if targets.dtype not in LOGITS_DTYPES + INTEGER_DTYPES:
        raise TypeError(f"{name}: expected a bool, integer or floating dtype, got {targets.dtype}")


def check_targets(targets: Any, logits: Tensor) -> Tensor | CSRTargets:
    """Constant targets: dense ones of the logits' shape, or CSR targets of their rows and labels."""
    if not isinstance(targets, Tensor) or targets.requires_grad:
        check_constant("targets", targets)
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
    return targets.detach()
