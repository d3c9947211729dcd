"""The arguments that every loss takes besides its own: names, defaults, checks and documentation, in one table.

Functions list them in their signatures and modules take them as ``CommonArguments``, for type checkers and ``help``;
tests compare both with the table.
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

    default: Any
    check: Callable[[str, Any], Any]  # of what is known before there are logits
    documentation: str  # with {places} that a loss fills
    of_modules: bool = True  # modules keep it; otherwise each call gives it


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
        check.check_number(name, value, 0.0)


# In the order of the functions' signatures.
COMMON_ARGUMENTS: Final[dict[str, CommonArgument]] = {
    "weight": CommonArgument(
        None,
        _check_of_labels,
        """``[L]``, finite, >= 0; {weight}. {zero_weight}
        It must not require a gradient. Default None.""",
    ),
    "sample_weight": CommonArgument(
        None,
        _check_of_rows,
        """``[...]``, finite, >= 0; {sample_weight}. It must not
        require a gradient. Default None.""",
        of_modules=False,
    ),
    "label_smoothing": CommonArgument(
        0.0,
        lambda name, value: check.check_number(name, value, 0.0, 1.0, open_high=True),
        """e in [0, 1). Targets become ``(1 - e) y + e / L``, on the fly, sparse ones too.
        (``e / 2`` in place of ``e / L`` would put a floor of order log L under the losses of this
        package.) Default 0.""",
    ),
    "ignore_index": CommonArgument(
        None,
        lambda name, value: check.check_ignore_index(value),
        """dense targets equal to it are unknown: they take no part, and their gradient is
        exactly 0. By convention -1; ``float("nan")`` for floating targets (a CSR's values, too) that are
        NaN where they are unknown. In ``CSRTargets`` a negative value does the same. Default None.""",
    ),
    "logit_scale": CommonArgument(
        1.0,
        _check_scale,
        """a number or 0-d tensor that multiplies the logits in the same pass. A tensor may require a
        gradient. Default 1.""",
    ),
    "logit_bias": CommonArgument(
        None,
        _check_of_labels,
        """``[L]``, which is added to the scaled logits in the same pass. It may require a gradient.
        Default None.""",
    ),
    "normalizer": CommonArgument(
        None,
        _check_divisor,
        """a number or 0-d tensor >= 0 that divides a ``"sum"`` before the gradient is rounded. 0,
        of a batch in which nothing is known, makes NaN of a sum of 0, as torch's mean over nothing is;
        the gradient of unknown labels stays 0. It must not require a gradient. Default None.""",
    ),
    "reduction": CommonArgument(
        "mean",
        lambda name, value: check.check_choice(name, value, _ops.REDUCTIONS),
        """``"none"`` gives {none}, ``"sum"`` their sum, ``"mean"`` their mean,
        ``"batchmean"`` their sum over the number of rows. Excluded and weighted ones count.
        Default ``"{reduction}"``.""",
    ),
    "inplace_backward": CommonArgument(
        False,
        check.check_bool,
        """the gradient takes the logits' memory, in the forward already: nothing else may
        read them after it. For contiguous logits that an operation made, and one backward; not for
        logits made outside a re-entrant checkpoint. Default False.""",
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
    """Check what can be checked before there are logits."""
    for name in DEFAULTS:
        COMMON_ARGUMENTS[name].check(name, arguments[name])
    if arguments["normalizer"] is not None and arguments["reduction"] != "sum":
        raise ValueError(f"normalizer: expected reduction='sum' with it, got reduction={arguments['reduction']!r}")


_LOGITS_AND_TARGETS = """
    logits: ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or not.
        Never written to, unless ``inplace_backward``. Leading dimensions are flattened to rows, by a
        view where their strides allow one.
    targets: dense bool, integer or floating ``[..., L]``, a ``CSRTargets`` of as many rows, or a
        ``torch.sparse_csr`` tensor. Integers >= 1 are positive, floating values are probabilities.
        A negative target that is not ``ignore_index`` makes its row NaN (its element, in
        element-wise losses). They must not require a gradient.
"""

_RETURNS = """
    float32 (float64 for float64 logits), differentiable once in logits{learnable}.
"""

_RAISES = """
    TypeError: an argument has another type or dtype.
    ValueError: shapes or devices do not fit, or a value is out of range. The message names the
        argument, what it got and what it takes.
"""


def documented(
    *,
    none: str,
    weight: str,
    zero_weight: str = "A label of weight 0 takes no part.",
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
