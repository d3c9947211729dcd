"""What every loss's function and module share: the documentation of common arguments, and the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .. import _ops
from .. import _validation as check
from ..targets import CSRTargets

__all__ = ["LossModule", "documented"]

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENTS = """
    logits: ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or not.
        Never written to, unless ``inplace_backward``. Leading dimensions are flattened to rows, by a
        view where their strides allow one.
    targets: dense bool, integer or floating ``[..., L]``, a ``CSRTargets`` of as many rows, or a
        ``torch.sparse_csr`` tensor. Integers >= 1 are positive, floating values are probabilities.
        A negative target that is not ``ignore_index`` makes its row NaN (its element, in
        element-wise losses).
"""

_KEYWORDS = """
    weight: ``[L]``, finite, >= 0; {weight}. A label of weight 0 takes no part. No gradient.
    sample_weight: ``[...]``, finite, >= 0; {sample_weight}. No gradient.
    label_smoothing: e in [0, 1). Targets become ``(1 - e) y + e / L``, on the fly, sparse ones too.
        (``e / 2`` in place of ``e / L`` would put a floor of order log L under the losses of this
        package.) Default 0.
    ignore_index: dense targets equal to it are unknown: they take no part, and their gradient is
        exactly 0. By convention -1. In ``CSRTargets`` a negative value does the same. Default None.
    logit_scale, logit_bias: the loss of ``logit_scale * logits + logit_bias``, in the same pass; a
        number or 0-d tensor, and ``[L]`` or None. Tensors may require gradients.
    normalizer: a positive number or 0-d tensor that divides a ``"sum"`` before the gradient is
        rounded. Default None.
    reduction: ``"none"`` gives {none}, ``"sum"`` their sum, ``"mean"`` (default) their mean,
        ``"batchmean"`` their sum over the number of rows. Excluded and weighted ones count.
    inplace_backward: the gradient takes the logits' memory. For contiguous logits that an operation
        made, and one backward; not for logits made outside a re-entrant checkpoint. Default False.
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
    sample_weight: str = "multiplies a row's loss",
    learnable: str = ", logit_scale and logit_bias",
) -> Callable[[F], F]:
    """Fill ``{logits}``, ``{keywords}``, ``{returns}`` and ``{raises}`` in a function's docstring."""

    def fill(function: F) -> F:
        keywords = _KEYWORDS.format(none=none, weight=weight, sample_weight=sample_weight)
        sections = {
            "{logits}": _ARGUMENTS,
            "{keywords}": keywords,
            "{returns}": _RETURNS.format(learnable=learnable),
            "{raises}": _RAISES,
        }
        for place, text in sections.items():
            body = "\n".join("    " + line if line else "" for line in text.strip("\n").splitlines())
            function.__doc__ = (function.__doc__ or "").replace("        " + place, body)
        return function

    return fill


class LossModule(nn.Module):
    """The base of every loss module: keeps a loss's arguments, calls its function.

    ``weight`` and ``logit_bias`` become buffers; learnable tensors (``nn.Parameter``) stay parameters.
    """

    _function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        own: dict[str, Any],
        *,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        logit_scale: float | Tensor = 1.0,
        logit_bias: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        reduction: str = "mean",
        inplace_backward: bool = False,
    ) -> None:
        super().__init__()
        check.check_choice("reduction", reduction, _ops.REDUCTIONS)
        check.check_number("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)
        check.check_ignore_index(ignore_index)
        check.check_bool("inplace_backward", inplace_backward)
        arguments = {
            **own,
            "weight": weight,
            "label_smoothing": label_smoothing,
            "ignore_index": ignore_index,
            "logit_scale": logit_scale,
            "logit_bias": logit_bias,
            "normalizer": normalizer,
            "reduction": reduction,
            "inplace_backward": inplace_backward,
        }
        self._names = tuple(arguments)
        self._shown = tuple(own)
        for name, value in arguments.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """The loss; shapes as in the function of the same name."""
        arguments = {name: getattr(self, name) for name in self._names}
        return type(self)._function(logits, targets, sample_weight=sample_weight, **arguments)

    def extra_repr(self) -> str:
        """The loss's own arguments and the reduction."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self._shown]
        return ", ".join([*shown, f"reduction={self.reduction!r}"])
