"""The common arguments of all losses, in one table: names, types, defaults, checks and documentation.

Functions list them in their signatures, and modules take them as ``CommonArguments``, for type checkers and ``help``.
``make lint FIX=1`` completes these lists from the table, and tests compare them with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypedDict, TypeVar

from torch import Tensor

from .. import _ops
from .. import _validation as check

__all__ = ["COMMON_ARGUMENTS", "DEFAULTS", "CommonArguments", "check_common", "documented"]

F = TypeVar("F", bound=Callable[..., Any])


class CommonArgument(NamedTuple):
    """One of the common arguments."""

    annotation: str
    default: Any
    check: Callable[[str, Any], Any]  # the check that is possible before there are logits
    documentation: str  # text with {fields} that each loss fills
    of_modules: bool = True  # whether modules store it; if not, each call passes it


def _check_of_labels(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, Tensor) and value.dim() == 1):
        raise TypeError(f"{name}: expected a tensor of shape [L] or None, got {value!r}")


def _check_of_rows(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or None, got {value!r}")


def _check_scale(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        check.check_number(name, value)


def _check_divisor(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Tensor):
        check.check_normalizer(value)


# The order is that of the functions' signatures.
COMMON_ARGUMENTS: Final[dict[str, CommonArgument]] = {
    "weight": CommonArgument(
        "Tensor | None",
        None,
        _check_of_labels,
        """``[L]``, finite, >= 0; {weight}. {zero_weight}
        It must not require a gradient. Default None.""",
    ),
    "sample_weight": CommonArgument(
        "Tensor | None",
        None,
        _check_of_rows,
        """``[...]``, finite, >= 0; {sample_weight}. It must not
        require a gradient. Default None.""",
        of_modules=False,
    ),
    "label_smoothing": CommonArgument(
        "float",
        0.0,
        lambda name, value: check.check_label_smoothing(value),
        """e in [0, 1). Targets become ``(1 - e) y + e / L`` inside the kernels, also sparse ones. (With
        ``e / 2`` instead of ``e / L``, the losses of this package could not fall below a value of order
        log L.) Default 0.""",
    ),
    "ignore_index": CommonArgument(
        "float | None",
        None,
        lambda name, value: check.check_ignore_index(value),
        """dense targets equal to it are unknown: they have no effect, and their gradient is exactly
        0. By convention it is -1; ``float("nan")`` marks unknown labels by NaN, in floating targets and
        in the values of ``CSRTargets``. In ``CSRTargets`` a negative value also marks an unknown label.
        Default None.""",
    ),
    "logit_scale": CommonArgument(
        "float | Tensor",
        1.0,
        _check_scale,
        """a number or a tensor of one element that multiplies the logits in the same pass. A tensor
        may require a gradient. Default 1.""",
    ),
    "logit_bias": CommonArgument(
        "Tensor | None",
        None,
        _check_of_labels,
        """``[L]``, added to the scaled logits in the same pass. It may require a gradient.
        Default None.""",
    ),
    "normalizer": CommonArgument(
        "float | Tensor | None",
        None,
        _check_divisor,
        """a number or 0-d tensor >= 0 that divides a ``"sum"`` before the gradient is rounded. If it is
        0, because all labels of the batch are unknown, the loss is NaN, like torch's mean of an empty
        tensor; the gradient of unknown labels stays 0. It must not require a gradient. Default None.""",
    ),
    "reduction": CommonArgument(
        "str",
        "mean",
        lambda name, value: check.check_choice(name, value, _ops.REDUCTIONS),
        """``"none"`` gives {none}, ``"sum"`` their sum, ``"mean"`` their mean,
        ``"batchmean"`` their sum over the number of rows. Means divide by the number of all
        values, excluded and weighted ones included. Default ``"{reduction}"``.""",
    ),
    "inplace_backward": CommonArgument(
        "bool",
        False,
        check.check_bool,
        """whether the gradient overwrites the logits, already in the forward: nothing else may
        read them afterwards. It needs contiguous logits that are the result of an operation, and allows
        one backward. Logits from outside a re-entrant checkpoint are not supported. Default False.""",
    ),
}


class CommonArguments(TypedDict, total=False):
    """The common arguments that a module's constructor takes."""

    weight: Tensor | None
    label_smoothing: float
    ignore_index: float | None
    logit_scale: float | Tensor
    logit_bias: Tensor | None
    normalizer: float | Tensor | None
    reduction: str
    inplace_backward: bool


DEFAULTS: Final[dict[str, Any]] = {
    name: argument.default for name, argument in COMMON_ARGUMENTS.items() if argument.of_modules
}


def check_common(arguments: dict[str, Any]) -> None:
    """Check the common arguments as far as that is possible before there are logits."""
    for name in DEFAULTS:
        COMMON_ARGUMENTS[name].check(name, arguments[name])
    check.check_divides_a_sum(arguments["normalizer"], arguments["reduction"])


_LOGITS_AND_TARGETS = """
    logits: ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or not.
        They are never changed, unless ``inplace_backward`` is set. Leading dimensions are flattened to
        rows, as a view if their strides allow it.
    targets: dense bool, integer or floating ``[..., L]``, a ``CSRTargets`` with as many rows, or a
        ``torch.sparse_csr`` tensor. Integers >= 1 are positive, floating values are probabilities.
        A negative target that is not ``ignore_index`` makes its row NaN (in element-wise losses, its
        element). Targets must not require a gradient.
"""

_RETURNS = """
    float32 (float64 for float64 logits), differentiable once in logits{learnable}.
"""

_RAISES = """
    TypeError: an argument has a wrong type or dtype.
    ValueError: shapes or devices do not fit, or a value is out of range. The message names the
        argument, the value it got and the values it takes.
"""


def documented(
    *,
    none: str,
    weight: str,
    zero_weight: str = "A label of weight 0 is excluded.",
    sample_weight: str = "multiplies a row's loss",
    learnable: str = ", logit_scale and logit_bias",
    reduction: str = "mean",
) -> Callable[[F], F]:
    """Fill ``{logits}``, ``{keywords}``, ``{returns}`` and ``{raises}`` in a function's docstring."""

    def fill(function: F) -> F:
        paragraphs = "\n".join(f"    {name}: {own.documentation}" for name, own in COMMON_ARGUMENTS.items())
        keywords = paragraphs.format(
            none=none, weight=weight, zero_weight=zero_weight, sample_weight=sample_weight, reduction=reduction
        )
        sections = {
            "{logits}": _LOGITS_AND_TARGETS,
            "{keywords}": keywords,
            "{returns}": _RETURNS.format(learnable=learnable),
            "{raises}": _RAISES,
        }
        for place, text in sections.items():
            body = "\n".join("    " + line if line else "" for line in text.strip("\n").splitlines())
            function.__doc__ = (function.__doc__ or "").replace("        " + place, body)
        return function

    return fill
