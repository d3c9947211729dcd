"""What every loss's function and module share: the documentation of common arguments, and the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, TypeVar

from torch import Tensor, nn

from .. import _ops
from .. import _validation as check
from ..targets import CSRTargets

__all__ = ["CommonArguments", "LossModule", "documented"]

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENTS = """
    logits: ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or not.
        Never written to, unless ``inplace_backward``. Leading dimensions are flattened to rows, by a
        view where their strides allow one.
    targets: dense bool, integer or floating ``[..., L]``, a ``CSRTargets`` of as many rows, or a
        ``torch.sparse_csr`` tensor. Integers >= 1 are positive, floating values are probabilities.
        A negative target that is not ``ignore_index`` makes its row NaN (its element, in
        element-wise losses). No gradient.
"""

_KEYWORDS = """
    weight: ``[L]``, finite, >= 0; {weight}. {zero_weight}
        No gradient.
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
    inplace_backward: the gradient takes the logits' memory, in the forward already: nothing else may
        read them after it. For contiguous logits that an operation made, and one backward; not for
        logits made outside a re-entrant checkpoint. Default False.
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
) -> Callable[[F], F]:
    """Fill ``{logits}``, ``{keywords}``, ``{returns}`` and ``{raises}`` in a function's docstring."""

    def fill(function: F) -> F:
        keywords = _KEYWORDS.format(none=none, weight=weight, zero_weight=zero_weight, sample_weight=sample_weight)
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


class CommonArguments(TypedDict, total=False):
    """What the constructor of every module takes besides the loss's own arguments."""

    weight: Tensor | None
    label_smoothing: float
    ignore_index: int | None
    logit_scale: float | Tensor
    logit_bias: Tensor | None
    normalizer: float | Tensor | None
    reduction: str
    inplace_backward: bool


_DEFAULTS: CommonArguments = {
    "weight": None,
    "label_smoothing": 0.0,
    "ignore_index": None,
    "logit_scale": 1.0,
    "logit_bias": None,
    "normalizer": None,
    "reduction": "mean",
    "inplace_backward": False,
}


# None, or a tensor that may come later.
_BUFFERS = ("weight", "logit_bias", "pos_weight")


def _check_common(arguments: dict[str, Any]) -> None:
    """What can be checked before there are logits."""
    reduction = check.check_choice("reduction", arguments["reduction"], _ops.REDUCTIONS)
    check.check_number("label_smoothing", arguments["label_smoothing"], 0.0, 1.0, open_high=True)
    check.check_ignore_index(arguments["ignore_index"])
    check.check_bool("inplace_backward", arguments["inplace_backward"])
    for name in ("weight", "logit_bias"):
        value = arguments[name]
        if value is not None and not (isinstance(value, Tensor) and value.dim() == 1):
            raise TypeError(f"{name}: expected a tensor of shape [L] or None, got {value!r}")
    if not isinstance(arguments["logit_scale"], Tensor):
        check.check_number("logit_scale", arguments["logit_scale"])
    normalizer = arguments["normalizer"]
    if normalizer is None:
        return
    if reduction != "sum":
        raise ValueError(f"normalizer: expected reduction='sum' with it, got reduction={reduction!r}")
    if not isinstance(normalizer, Tensor):
        check.check_number("normalizer", normalizer, 0.0, open_low=True)


class LossModule(nn.Module):
    """The base of every loss module: keeps a loss's arguments, calls its function.

    ``weight`` and ``logit_bias`` are buffers, as are other tensors; what is to be learned is passed as
    an ``nn.Parameter``.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _common: ClassVar[tuple[str, ...]] = tuple(_DEFAULTS)  # those of the common arguments that it takes

    def __init__(self, own: dict[str, Any], common: CommonArguments) -> None:
        super().__init__()
        unknown = set(common) - set(self._common)
        if unknown:
            raise TypeError(f"{type(self).__name__}: unexpected argument {sorted(unknown)[0]!r}")
        everything: dict[str, Any] = {**own, **_DEFAULTS, **common}
        _check_common(everything)
        arguments = {name: everything[name] for name in (*own, *self._common)}
        self._names = tuple(arguments)
        self._shown = tuple(own)
        for name, value in arguments.items():
            self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor) or (value is None and name in _BUFFERS):
            if value is not None and value.requires_grad:
                raise ValueError(
                    f"{name}: expected an nn.Parameter for what is learned, got a tensor that requires grad"
                )
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """The loss; shapes as in the function of the same name."""
        arguments = {name: getattr(self, name) for name in self._names}
        return type(self)._function(logits, targets, sample_weight=sample_weight, **arguments)

    def extra_repr(self) -> str:
        """The loss's own arguments and the reduction."""
        values = [(name, getattr(self, name)) for name in self._shown]
        shown = [f"{name}=<{tuple(v.shape)}>" if isinstance(v, Tensor) else f"{name}={v!r}" for name, v in values]
        return ", ".join([*shown, f"reduction={self.reduction!r}"])
