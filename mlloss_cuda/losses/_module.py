"""The base of every loss module: it keeps a loss's arguments and calls its function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from .._call import CheckedCall
from .._dispatch import prepare
from .._registry import Term
from ..targets import CSRTargets
from ._arguments import DEFAULTS, CommonArguments, check_common
from ._decisions import Decisions

if TYPE_CHECKING:
    from .compound import CompoundLoss

__all__ = ["CheckedPass", "LossModule"]

# None, or a tensor that may come later.
_BUFFERS = ("weight", "logit_bias", "pos_weight")


class CheckedPass(NamedTuple):
    """One of the evaluations that a module's loss is the sum of: checked, not run."""

    coefficient: float
    call: CheckedCall
    places: tuple[int, ...] = (0,)  # of a compound's terms: those it is of
    shares: tuple[float, ...] = ()  # and of each one's value, how much is in the pass; empty: a term by itself


class LossModule(Decisions):
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
        check_common(everything)
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

    # Sums build on this class, and set these two.
    _joined: ClassVar[Callable[[LossModule, LossModule], CompoundLoss]]
    _scaled: ClassVar[Callable[[LossModule, float], CompoundLoss]]

    def __add__(self, other: Any) -> CompoundLoss:
        return LossModule._joined(self, other) if isinstance(other, LossModule) else NotImplemented

    def __radd__(self, other: Any) -> LossModule:
        # sum() begins with 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: Any) -> CompoundLoss:
        return LossModule._scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

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

    def passes(
        self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None
    ) -> list[CheckedPass]:
        """The loss, checked as a call would check it, and not run: of ``logits`` no value is looked at."""
        common = {name: getattr(self, name, default) for name, default in DEFAULTS.items()}
        common["inplace_backward"] = False
        return [
            CheckedPass(1.0, prepare(self.term(), logits, targets, **common, sample_weight=sample_weight, keep=False))
        ]

    def note(self, passes: list[CheckedPass], outcomes: Sequence[tuple[Tensor, Tensor]]) -> None:
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

    def extra_repr(self) -> str:
        """The loss's own arguments and the reduction."""
        values = [(name, getattr(self, name)) for name in self._shown]
        shown = [f"{name}=<{tuple(v.shape)}>" if isinstance(v, Tensor) else f"{name}={v!r}" for name, v in values]
        return ", ".join([*shown, f"reduction={self.reduction!r}"])
