"""What every loss's function and module share: the documentation of common arguments, and the module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict, TypeVar

from torch import Tensor, nn

from .. import _ops
from .. import _validation as check
from .._call import CheckedCall
from .._dispatch import prepare, shifted
from .._registry import Term
from ..targets import CSRTargets

if TYPE_CHECKING:
    from .compound import CompoundLoss

__all__ = ["DEFAULTS", "CommonArguments", "LossModule", "Pass", "documented"]

F = TypeVar("F", bound=Callable[..., Any])

_ARGUMENTS = """
    logits: ``[..., L]``, float32, bfloat16, float16 or float64, on a CPU or GPU, contiguous or not.
        Never written to, unless ``inplace_backward``. Leading dimensions are flattened to rows, by a
        view where their strides allow one.
    targets: dense bool, integer or floating ``[..., L]``, a ``CSRTargets`` of as many rows, or a
        ``torch.sparse_csr`` tensor. Integers >= 1 are positive, floating values are probabilities.
        A negative target that is not ``ignore_index`` makes its row NaN (its element, in
        element-wise losses). They must not require a gradient.
"""

_KEYWORDS = """
    weight: ``[L]``, finite, >= 0; {weight}. {zero_weight}
        It must not require a gradient.
    sample_weight: ``[...]``, finite, >= 0; {sample_weight}. It must not
        require a gradient.
    label_smoothing: e in [0, 1). Targets become ``(1 - e) y + e / L``, on the fly, sparse ones too.
        (``e / 2`` in place of ``e / L`` would put a floor of order log L under the losses of this
        package.) Default 0.
    ignore_index: dense targets equal to it are unknown: they take no part, and their gradient is
        exactly 0. By convention -1; ``float("nan")`` for floating targets (a CSR's values, too) that are
        NaN where they are unknown. In ``CSRTargets`` a negative value does the same. Default None.
    logit_scale, logit_bias: the loss of ``logit_scale * logits + logit_bias``, in the same pass; a
        number or 0-d tensor, and ``[L]`` or None. Tensors may require gradients.
    normalizer: a number or 0-d tensor >= 0 that divides a ``"sum"`` before the gradient is rounded. 0,
        of a batch in which nothing is known, makes NaN of a sum of 0, as torch's mean over nothing is;
        the gradient of unknown labels stays 0. It must not require a gradient. Default None.
    reduction: ``"none"`` gives {none}, ``"sum"`` their sum, ``"mean"`` their mean,
        ``"batchmean"`` their sum over the number of rows. Excluded and weighted ones count.
        Default ``"{reduction}"``.
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
    reduction: str = "mean",
) -> Callable[[F], F]:
    """Fill ``{logits}``, ``{keywords}``, ``{returns}`` and ``{raises}`` in a function's docstring."""

    def fill(function: F) -> F:
        keywords = _KEYWORDS.format(
            none=none, weight=weight, zero_weight=zero_weight, sample_weight=sample_weight, reduction=reduction
        )
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
    ignore_index: float | None
    logit_scale: float | Tensor
    logit_bias: Tensor | None
    normalizer: float | Tensor | None
    reduction: str
    inplace_backward: bool


DEFAULTS: CommonArguments = {
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
        check.check_number("normalizer", normalizer, 0.0)


class Pass(NamedTuple):
    """One of the evaluations that a module's loss is the sum of: checked, not run."""

    coefficient: float
    call: CheckedCall
    places: tuple[int, ...] = (0,)  # of a compound's terms: those it is of
    shares: tuple[float, ...] = ()  # and of each one's value, how much is in the pass; empty: a term by itself


class LossModule(nn.Module):
    """The base of every loss module: keeps a loss's arguments, calls its function.

    ``weight`` and ``logit_bias`` are buffers, as are other tensors; what is to be learned is passed as
    an ``nn.Parameter``.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _term: ClassVar[Callable[..., Term]]
    _common: ClassVar[tuple[str, ...]] = tuple(DEFAULTS)  # those of the common arguments that it takes

    def __init__(self, own: dict[str, Any], common: CommonArguments) -> None:
        super().__init__()
        unknown = set(common) - set(self._common)
        if unknown:
            raise TypeError(f"{type(self).__name__}: unexpected argument {sorted(unknown)[0]!r}")
        everything: dict[str, Any] = {**own, **DEFAULTS, **common}
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

    @property
    def function(self) -> Callable[..., Tensor]:
        """The function that the module calls."""
        return type(self)._function

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the loss's own arguments."""
        return self._shown

    def term(self) -> Term:
        """What a compound takes the loss for."""
        return type(self)._term(**{name: getattr(self, name) for name in self._shown})

    def __add__(self, other: Any) -> CompoundLoss:
        from .compound import joined

        return joined(self, other) if isinstance(other, LossModule) else NotImplemented

    def __radd__(self, other: Any) -> LossModule:
        # sum() begins with 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: Any) -> CompoundLoss:
        from .compound import scaled

        return scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """The loss; shapes as in the function of the same name."""
        return self._call(logits, targets, sample_weight=sample_weight)

    def _call(self, logits: Tensor, targets: Tensor | CSRTargets, **other: Any) -> Tensor:
        arguments = {name: getattr(self, name) for name in self._names}
        return type(self)._function(logits, targets, **{**arguments, **other})

    # ---- for those who have no logits yet: the linear head ----

    def terms_on(self, device_type: str) -> list[Term]:
        """What each of :meth:`passes` will be of, on such a device."""
        return [self.term()]

    def passes(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> list[Pass]:
        """The loss, checked as a call would check it, and not run: of ``logits`` no value is looked at."""
        common = {name: getattr(self, name, default) for name, default in DEFAULTS.items()}
        common["inplace_backward"] = False
        return [Pass(1.0, prepare(self.term(), logits, targets, **common, sample_weight=sample_weight, keep=False))]

    def note(self, passes: list[Pass], outcomes: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keep what a call keeps, of the value and the coefficients that each pass came to."""

    def initial_bias(self, num_labels: int) -> float:
        """Where a last layer's bias does well to begin: one label in L true, or one expected in a row."""
        return -math.log(max(num_labels, 1))

    def _share(self, logits: Tensor, targets: Tensor | CSRTargets, items: float | Tensor) -> Tensor:
        """The mean, weighted by the logits' share of ``items`` elements in all, by way of ``normalizer``."""
        rows, labels = math.prod(logits.shape[:-1]), logits.shape[-1]
        grouping = "samples" if self.reduction == "batchmean" else self.term().grouping
        values = {"element": rows * labels, "samples": rows, "macro": labels, "micro": 1}[grouping]
        normalizer = items * (max(values, 1) / max(rows * labels, 1))
        return self._call(logits, targets, reduction="sum", normalizer=normalizer)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability of each label that the loss estimates: where its expectation is least at these logits.

        ``logit_scale``, ``logit_bias`` and a threshold are applied, ``pos_weight`` and ``alpha`` undone;
        ``label_smoothing`` is not. The class says which formula it is.

        Args:
            logits: ``[..., L]``, as in the loss.

        Returns:
            ``[..., L]``, float32 (float64 for float64), differentiable.

        Raises:
            NotImplementedError: the loss estimates none; the message says why, and what to do.

        Example:
            >>> SigmoidFocalLoss(alpha=None).probabilities(torch.tensor([-2.0, 0.0, 2.0]))
            tensor([0.0045, 0.5000, 0.9955])
        """
        return self._probability(self._scores(logits))

    def predict(self, logits: Tensor) -> Tensor:
        """The labels that the loss's own rule takes: where there are probabilities, those above 1/2.

        :func:`mlloss_cuda.fit_thresholds` finds better ones for a metric.

        Args:
            logits: ``[..., L]``, as in the loss.

        Returns:
            bool ``[..., L]``; a NaN is not predicted.

        Raises:
            NotImplementedError: the loss ranks labels and has no threshold of its own.

        Example:
            >>> ZLPRLoss(threshold=0.5).predict(torch.tensor([0.2, 0.7]))
            tensor([False,  True])
        """
        return self._predicted(self._scores(logits))

    # What a loss declares: its log-odds; or its probability and its rule; or neither, and why.
    _undecided: ClassVar[str] = "it does not say"

    def _log_odds(self, s: Tensor) -> Tensor:
        raise self._no_probabilities(self._undecided)

    def _probability(self, s: Tensor) -> Tensor:
        return self._log_odds(s).sigmoid()

    def _predicted(self, s: Tensor) -> Tensor:
        return self._log_odds(s) > 0

    def _no_probabilities(self, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} estimates no probabilities: {why}. mlloss_cuda.fit_thresholds finds thresholds "
            "on held-out data; BCEWithLogitsLoss estimates probabilities."
        )

    def _no_threshold(self, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} has no threshold of its own: {why}. Take the highest by rank, or thresholds "
            "from mlloss_cuda.fit_thresholds on held-out data."
        )

    def _scores(self, logits: Tensor) -> Tensor:
        return shifted(
            logits,
            threshold=getattr(self, "threshold", 0.0),
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
        )

    def extra_repr(self) -> str:
        """The loss's own arguments and the reduction."""
        values = [(name, getattr(self, name)) for name in self._shown]
        shown = [f"{name}=<{tuple(v.shape)}>" if isinstance(v, Tensor) else f"{name}={v!r}" for name, v in values]
        return ", ".join([*shown, f"reduction={self.reduction!r}"])
