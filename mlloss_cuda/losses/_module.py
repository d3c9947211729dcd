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

# These arguments become buffers even if they are None, because a tensor may be assigned later.
_BUFFERS = ("weight", "logit_bias", "pos_weight")


class CheckedPass(NamedTuple):
    """One of the evaluations whose sum is a module's loss: checked, but not yet run."""

    coefficient: float
    call: CheckedCall
    places: tuple[int, ...] = (0,)  # the indices of a compound's terms in it
    shares: tuple[float, ...] = ()  # factor of each term's own value; empty for a term by itself


class LossModule(Decisions):
    """The base of every loss module: it keeps a loss's arguments and calls its function.

    Tensors that the constructor gets are buffers, and so are ``weight``, ``logit_bias`` and ``pos_weight`` that are
    assigned in place of None. A tensor that is to be learned must be an ``nn.Parameter``.
    """

    _function: ClassVar[Callable[..., Tensor]]
    _term: ClassVar[Callable[..., Term]]
    _common: ClassVar[tuple[str, ...]] = tuple(DEFAULTS)  # the common arguments that the loss takes

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
                    f"{name}: expected an nn.Parameter for a learned tensor, got a tensor that requires grad"
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

    def arguments(self) -> list[Any]:
        """Return the values of the module's arguments; those of a property or a parametrization are new ones."""
        buffers = self._buffers  # getattr takes longer to find them
        return [buffers[name] if name in buffers else getattr(self, name) for name in self._names]

    def term(self) -> Term:
        """Return the loss and its own arguments as a term."""
        return type(self)._term(**{name: getattr(self, name) for name in self._shown})

    # Sums build on this class, and set these two.
    _joined: ClassVar[Callable[[LossModule, LossModule], CompoundLoss]]
    _scaled: ClassVar[Callable[[LossModule, float], CompoundLoss]]

    def __add__(self, other: Any) -> CompoundLoss:
        return LossModule._joined(self, other) if isinstance(other, LossModule) else NotImplemented

    def __radd__(self, other: Any) -> LossModule:
        # sum() starts with 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: Any) -> CompoundLoss:
        return LossModule._scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss; shapes are those of the function of the same name."""
        return self._call(logits, targets, sample_weight=sample_weight)

    def _call(self, logits: Tensor, targets: Tensor | CSRTargets, **other: Any) -> Tensor:
        arguments = {name: getattr(self, name) for name in self._names}
        return type(self)._function(logits, targets, **{**arguments, **other})

    # ---- for the linear head, which has no logits when it checks a call ----

    def terms_on(self, device_type: str) -> list[Term]:
        """Return the term of each of :meth:`passes`, on a device of this type."""
        return [self.term()]

    def passes(
        self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None
    ) -> list[CheckedPass]:
        """Check the call without running it, and return its passes. No value of ``logits`` is read."""
        common = {name: getattr(self, name, default) for name, default in DEFAULTS.items()}
        common["inplace_backward"] = False
        return [
            CheckedPass(1.0, prepare(self.term(), logits, targets, **common, sample_weight=sample_weight, keep=False))
        ]

    def note(
        self,
        passes: list[CheckedPass],
        outcomes: Sequence[tuple[Tensor, Tensor]],
        leading: tuple[int, ...] | None = None,
    ) -> None:
        """Store what a call stores, from the value and the coefficients of each pass; by default nothing.

        ``leading`` is the shape of the values of rows, and None for other values.
        """

    def initial_bias(self, num_labels: int) -> float:
        """Return a good initial bias of the last layer. By default one label in L is expected to be true."""
        return -math.log(max(num_labels, 1))

    def _share(self, logits: Tensor, targets: Tensor | CSRTargets, items: float | Tensor) -> Tensor:
        """Return the mean, times the share that the logits have of ``items`` elements; ``normalizer`` applies it."""
        rows, labels = math.prod(logits.shape[:-1]), logits.shape[-1]
        grouping = "samples" if self.reduction == "batchmean" else self.term().grouping
        values = {"element": rows * labels, "samples": rows, "macro": labels, "micro": 1}[grouping]
        normalizer = items * (max(values, 1) / max(rows * labels, 1))
        return self._call(logits, targets, reduction="sum", normalizer=normalizer)

    def extra_repr(self) -> str:
        """Return the loss's own arguments and the reduction, for ``repr``."""
        values = [(name, getattr(self, name)) for name in self._shown]
        shown = [f"{name}=<{tuple(v.shape)}>" if isinstance(v, Tensor) else f"{name}={v!r}" for name, v in values]
        return ", ".join([*shown, f"reduction={self.reduction!r}"])
