"""Weighted sums of losses, in one pass over the logits if an engine has the sum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .. import _backends, _ops, _registry
from .. import _validation as check
from .._dispatch import checked_logits, evaluate_kept, prepare
from .._registry import Term
from ..targets import CSRTargets
from ._arguments import DEFAULTS, CommonArguments, documented
from ._module import CheckedPass, LossModule
from ._term_values import PassResult, TermValues

__all__ = ["CompoundLoss", "Pass", "compound_loss"]

# These arguments belong to the sum, not to its terms.
_OF_THE_SUM = ("normalizer", "reduction", "inplace_backward")
_OF_TERMS = tuple(name for name in DEFAULTS if name not in _OF_THE_SUM)  # a term's own override those of the sum


class Pass(NamedTuple):
    """The indices of terms that run together, and the backend; None for a term that runs by itself."""

    terms: tuple[int, ...]
    backend: str | None


class _Prepared(NamedTuple):
    """A term with its coefficient and its common arguments."""

    coefficient: float
    term: Term
    common: dict[str, Any]  # weight, label_smoothing and so on: the term's own values, or those of the sum


def _coefficient(value: Any) -> float:
    return check.check_number("terms", value)


def _check_terms(terms: Any) -> tuple[tuple[float, LossModule], ...]:
    if isinstance(terms, CompoundLoss):
        return _plain_terms(terms)
    if not isinstance(terms, Sequence) or not terms:
        raise TypeError(f"terms: expected a sequence of (coefficient, loss module) pairs, got {terms!r}")
    pairs = []
    for pair in terms:
        if not (isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[1], LossModule)):
            raise TypeError(f"terms: expected (coefficient, loss module of mlloss_cuda) pairs, got {pair!r}")
        coefficient, loss = pair
        if isinstance(loss, CompoundLoss):
            raise TypeError("terms: expected single losses, got a CompoundLoss; add compounds with +")
        if loss.term().spec.second_logits:
            raise TypeError(f"terms: expected losses of logits and targets, got {loss!r}, which takes two logits")
        pairs.append((_coefficient(coefficient), loss))
    return tuple(pairs)


def _check_of_the_sum(loss: LossModule, reduction: str) -> None:
    for name in _OF_THE_SUM:
        own, default = getattr(loss, name), DEFAULTS[name]
        if own is not default and own != default and not (name == "reduction" and own == reduction):
            raise ValueError(f"{name}: expected it on the compound only, not on its terms; {loss!r} has {own!r}")


def _prepare(pairs: Sequence[tuple[float, LossModule]], common: dict[str, Any]) -> list[_Prepared]:
    prepared = []
    for coefficient, loss in pairs:
        own = {name: getattr(loss, name) for name in common}
        shared = {name: common[name] if _is_default(name, value) else value for name, value in own.items()}
        prepared.append(_Prepared(coefficient, loss.term(), shared))
    return prepared


def _is_default(name: str, value: Any) -> bool:
    return value is DEFAULTS[name] or (not isinstance(value, Tensor) and value == DEFAULTS[name])


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    # An ignore_index of NaN equals another NaN.
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and (a == b or (a != a and b != b))


def _share_numbers(a: Term, b: Term) -> bool:
    """Return whether one tensor of numbers for the labels serves both terms: a pass applies it to all that take one."""
    if not (a.spec.label_parameter and b.spec.label_parameter):
        return True
    if a.label_parameter is None or b.label_parameter is None:
        return a.label_parameter is b.label_parameter
    return a.label_parameter[1] is b.label_parameter[1]


def _share_a_pass(a: _Prepared, b: _Prepared) -> bool:
    """Return whether two terms have the same logits, targets and weights, and the same numbers for the labels."""
    return (
        _share_numbers(a.term, b.term)
        and _same(a.term.threshold, b.term.threshold)
        and all(_same(a.common[name], b.common[name]) for name in a.common)
    )


def _may_share(term: Term) -> bool:
    return not term.alone and term.grouping in ("element", "samples") and not term.spec.second_pass_sums


def _groups(prepared: Sequence[_Prepared]) -> list[list[int]]:
    """Return the indices of terms that may share a pass, sorted by name: engines have each sum in one order only."""
    groups: list[list[int]] = []
    for place, item in sorted(enumerate(prepared), key=lambda pair: pair[1].term.spec.name):
        home = None
        if _may_share(item.term):
            home = next(
                (
                    group
                    for group in groups
                    if len(group) < _ops.MOST_TERMS
                    and all(_may_share(prepared[i].term) and _share_a_pass(prepared[i], item) for i in group)
                ),
                None,
            )
        if home is None:
            groups.append([place])
        else:
            home.append(place)
    return groups


def _largest(
    names: tuple[str, ...], device_type: str, forced: str | None, numbers: bool
) -> tuple[tuple[int, ...], str | None]:
    """Return the largest subset of the named losses that an engine runs in one pass: indices and backend."""
    for count in range(len(names), 1, -1):
        for places in itertools.combinations(range(len(names)), count):
            name = _ops.COMPOUND.join(names[i] for i in places)
            backend = _backends.one_pass(device_type, name, forced)
            if backend is not None and not (numbers and not _backends.takes_label_parameters(backend)):
                return places, backend
    return (0,), None


def _plan(prepared: Sequence[_Prepared], device_type: str) -> list[Pass]:
    passes = []
    for group in _groups(prepared):
        left = list(group)
        while left:
            names = tuple(prepared[i].term.spec.name for i in left)
            numbers = any(prepared[i].term.label_parameter is not None for i in left)
            places, backend = _largest(names, device_type, _backends.forced(), numbers)
            chosen = tuple(left[i] for i in places)
            passes.append(Pass(chosen, backend))
            left = [i for i in left if i not in chosen]
    return passes


class _Arguments(NamedTuple):
    """The arguments that all passes of a call share."""

    logits: Tensor
    targets: Tensor | CSRTargets
    sample_weight: Tensor | None
    normalizer: Any
    reduction: str
    inplace_backward: bool

    def term_values(self, results: tuple[PassResult, ...]) -> TermValues:
        leading = tuple(self.logits.shape[:-1])
        return TermValues(results, leading, self.reduction, self.sample_weight, self.normalizer).fixed()

    def engine(self, reduction: str) -> dict[str, Any]:
        return {
            "sample_weight": self.sample_weight,
            "normalizer": self.normalizer,
            "reduction": reduction,
            "inplace_backward": self.inplace_backward,
        }


class _LastPlan(NamedTuple):
    """The passes of a module's last call, and the objects that they depend on."""

    key: tuple[Any, ...]
    seen: list[Any]
    passes: list[_Planned]


class _Planned(NamedTuple):
    """A planned pass, which runs one term by itself, or several terms together."""

    places: tuple[int, ...]
    loss: LossModule | None  # the term that runs by itself
    coefficient: float
    term: Term
    common: dict[str, Any]
    shares: tuple[float, ...]  # factor of each term's own value in the pass
    reduction: str

    def call(self, call: _Arguments) -> tuple[Tensor, PassResult]:
        """Return the value of the pass, which is a part of the sum, and what the terms' own values follow from."""
        if self.loss is None:
            value, kept = evaluate_kept(
                self.term, call.logits, call.targets, **self.common, **call.engine(self.reduction)
            )
            return value, PassResult(self.places, self.shares, kept.detach())
        own = {name: getattr(self.loss, name) for name in self.loss.own}
        value = self.loss.function(call.logits, call.targets, **own, **self.common, **call.engine(self.reduction))
        if call.reduction == "none" and self.term.grouping == "element":
            value = value.sum(-1)
            if not isinstance(call.logits, Tensor):  # ShardedLogits: the labels lie on several ranks
                value = call.logits.total(value)
        return self.coefficient * value, PassResult(self.places, (), value.detach())


def _planned(
    pairs: Sequence[tuple[float, LossModule]],
    common: dict[str, Any],
    device_type: str,
    labels: int,
    reduction: str,
    inplace_backward: bool,
) -> list[_Planned]:
    """Return the planned passes of a call."""
    prepared = _prepare(pairs, common)
    if reduction == "none" and any(item.term.grouping in ("macro", "micro") for item in prepared):
        raise ValueError("reduction: expected another than 'none', because a term has groups that are not rows")
    # Under "mean", an element-wise term has the mean over elements, the same as alone; NaN if there are none.
    of_element = 1.0 / labels if labels else math.nan
    planned = []
    for places, backend in _plan(prepared, device_type):
        items = [prepared[i] for i in places]
        coefficient, term, own = items[0]
        if backend is None:
            planned.append(_Planned(places, pairs[places[0]][1], coefficient, term, own, (), reduction))
            continue
        shares = tuple(of_element if reduction == "mean" and item.term.spec.element_wise else 1.0 for item in items)
        joint = _registry.compound(
            [(item.coefficient * share, item.term) for item, share in zip(items, shares, strict=True)]
        )
        of_rows = "batchmean" if reduction == "mean" else reduction
        planned.append(_Planned(places, None, 1.0, joint, own, shares, of_rows))
    if inplace_backward and len(planned) > 1:
        raise ValueError(f"inplace_backward: expected terms that share one pass, got {len(planned)} passes")
    return planned


def _agreed(logits: Any, plan: Callable[[], list[_Planned]]) -> list[_Planned]:
    """Return the plan. With sharded logits, a rank whose plan fails says so to the others, which wait for it."""
    try:
        return plan()
    except (TypeError, ValueError) as error:
        if not isinstance(logits, Tensor):
            logits.shards.fail(error, logits.device)
        raise


def _run(passes: Sequence[_Planned], call: _Arguments) -> tuple[Tensor, tuple[PassResult, ...]]:
    """Return the sum, and what each pass found about its terms."""
    value: Tensor | None = None
    results = []
    for planned in passes:
        part, result = planned.call(call)
        value = part if value is None else value + part
        results.append(result)
    assert value is not None
    return value, tuple(results)


def scaled(loss: LossModule, factor: float) -> CompoundLoss:
    """Return ``factor * loss``."""
    return CompoundLoss([(factor * coefficient, own) for coefficient, own in _plain_terms(loss)])


def joined(first: LossModule, second: LossModule) -> CompoundLoss:
    """Return ``first + second``."""
    return CompoundLoss([*_plain_terms(first), *_plain_terms(second)])


def _plain_terms(loss: LossModule) -> tuple[tuple[float, LossModule], ...]:
    if not isinstance(loss, CompoundLoss):
        return ((1.0, loss),)
    for name, default in {**DEFAULTS, "reduction": "batchmean"}.items():
        if getattr(loss, name) is not default and getattr(loss, name) != default:
            raise ValueError(
                f"{name}: expected the default in a compound that becomes part of another, got {getattr(loss, name)!r}"
            )
    return loss.terms


@documented(
    none="the rows' losses ``[...]``, with element-wise terms summed over the row",
    weight="the weight of every term that has none of its own",
    zero_weight="",
    sample_weight="multiplies a row's loss",
    learnable=", the terms' thresholds, logit_scale and logit_bias",
    reduction="batchmean",
)
def compound_loss(
    logits: Tensor,
    targets: Tensor | CSRTargets,
    terms: Sequence[tuple[float, LossModule]],
    *,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    logit_scale: float | Tensor = 1.0,
    logit_bias: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    reduction: str = "batchmean",
    inplace_backward: bool = False,
) -> Tensor:
    r"""A weighted sum of losses of the same logits and targets, in one pass over them.

    .. math:: \sum_k c_k \, \ell_k(s, y)

    A pass reads the logits once and writes one gradient for all its terms. The CPU engine and Triton run
    any element-wise and row losses in one pass; the CUDA extension runs the sums that it was built for
    (see ``CompoundLoss.plan``). Terms with different weights, thresholds, scales, smoothing or
    ``ignore_index`` need separate passes, and so do a rescaled focal loss, a decoupled softmax and losses
    whose groups cross rows. Each term has the same numerics as alone.

    Args:
        {logits}
        terms: pairs of a finite coefficient and a loss module. A term's own weight, label_smoothing,
            ignore_index, logit_scale and logit_bias override those of the compound; reduction,
            normalizer and inplace_backward belong to the compound only.
        {keywords}

    Returns:
        {returns}

    Raises:
        {raises}

    Source:
        Sums such as cross-entropy and Dice are common practice, e.g. Isensee et al., "nnU-Net", 2018,
        arXiv:1809.10486.

    Example:
        >>> logits = torch.tensor([[2.0, -1.0]])
        >>> compound_loss(logits, torch.tensor([[1, 0]]), [(1.0, ZLPRLoss()), (0.5, DiceLoss())]).item()
        0.5...
    """
    given: dict[str, Any] = {
        "weight": weight,
        "sample_weight": sample_weight,
        "label_smoothing": label_smoothing,
        "ignore_index": ignore_index,
        "logit_scale": logit_scale,
        "logit_bias": logit_bias,
        "normalizer": normalizer,
        "reduction": reduction,
        "inplace_backward": inplace_backward,
    }
    common = {name: given[name] for name in _OF_TERMS}
    pairs = _check_terms(terms)
    for _, loss in pairs:
        _check_of_the_sum(loss, reduction)
    logits = checked_logits(logits)
    check.check_choice("reduction", reduction, _ops.REDUCTIONS)
    passes = _agreed(
        logits,
        lambda: _planned(pairs, common, logits.device.type, logits.shape[-1], reduction, inplace_backward),
    )
    call = _Arguments(logits, targets, sample_weight, normalizer, reduction, inplace_backward)
    return _run(passes, call)[0]


class CompoundLoss(LossModule):
    """The module of :func:`compound_loss`, and the result of ``+`` and ``*`` on loss modules.

    Its terms are the submodules ``losses``, so their parameters are learned, and ``coefficients``. For logging,
    ``values`` has the value of each term in the last call.

    Example:
        >>> loss = ZLPRLoss() + 0.5 * SigmoidFocalLoss(gamma=2.0)
        >>> total = loss(torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]]))
        >>> loss.values.shape
        torch.Size([2])
    """

    _function = staticmethod(compound_loss)
    _last_plan: _LastPlan | None = None
    _term_values: TermValues | None = None

    def __init__(self, terms: Sequence[tuple[float, LossModule]], **common: Unpack[CommonArguments]) -> None:
        pairs = _check_terms(terms)
        common.setdefault("reduction", "batchmean")
        for _, loss in pairs:
            _check_of_the_sum(loss, common["reduction"])
        super().__init__({}, common)
        self.coefficients = tuple(coefficient for coefficient, _ in pairs)
        self.losses = nn.ModuleList([loss for _, loss in pairs])

    @property
    def values(self) -> Tensor | None:
        """The value of each term in the last call, ``[K]``, or ``[..., K]`` under ``reduction="none"``.

        A value is detached, is without its coefficient, and has the reduction of the sum. Each reading computes the
        values, from numbers for each row that the call keeps. They are None before the first call, and after a call
        under a transform of ``torch.func``.
        """
        return None if self._term_values is None else self._term_values.stacked()

    @property
    def terms(self) -> tuple[tuple[float, LossModule], ...]:
        """The pairs of a coefficient and a loss."""
        return tuple(zip(self.coefficients, self.losses, strict=True))  # type: ignore[arg-type]

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """Return the sum; shapes are those of :func:`compound_loss`."""
        logits = checked_logits(logits)
        passes = _agreed(logits, lambda: self._passes_on(logits.device, logits.shape[-1]))
        in_place = bool(self.inplace_backward)
        call = _Arguments(logits, targets, sample_weight, self.normalizer, str(self.reduction), in_place)
        value, results = _run(passes, call)
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_exporting():
            self._term_values = None  # A tensor that a transform or an export made cannot be used after it.
        elif torch.compiler.is_dynamo_compiling():
            self._term_values = call.term_values(results)
        else:
            # A module looks for parameters among the values that it is given, which takes longer than this tuple.
            object.__setattr__(self, "_term_values", call.term_values(results))
        return value

    def _passes_on(self, device: torch.device, labels: int) -> list[_Planned]:
        """Return the passes of a call: those of the last call, if no object that they depend on was replaced."""
        if type(labels) is not int or torch.compiler.is_compiling():  # a traced number does not outlive its trace
            return self._planned_on(device.type, labels, bool(self.inplace_backward))
        key = (device, labels, _backends.forced(), tuple(self.coefficients))
        seen = self.arguments()
        for loss in self.losses._modules.values():
            seen += [loss, *loss.arguments()]  # type: ignore[operator]
        last = self._last_plan
        if last is None or last.key != key or len(last.seen) != len(seen) or not all(map(is_, last.seen, seen)):
            planned = self._planned_on(device.type, labels, bool(self.inplace_backward))
            last = self._last_plan = _LastPlan(key, seen, planned)
        return last.passes

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last plan out of copies."""
        return {**self.__dict__, "_last_plan": None}

    def _planned_on(self, device_type: str, labels: int, in_place: bool) -> list[_Planned]:
        # Attributes may have changed since the constructor checked them.
        for coefficient, loss in self.terms:
            _coefficient(coefficient)
            _check_of_the_sum(loss, str(self.reduction))
        return _planned(self.terms, self._common_arguments(), device_type, labels, str(self.reduction), in_place)

    def terms_on(self, device_type: str) -> list[Term]:
        """Return the term of each of :meth:`passes`, on a device of this type."""
        prepared = _prepare(self.terms, self._common_arguments())
        return [
            prepared[places[0]].term
            if backend is None
            else _registry.compound([(prepared[i].coefficient, prepared[i].term) for i in places])
            for places, backend in _plan(prepared, device_type)
        ]

    def passes(
        self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None
    ) -> list[CheckedPass]:
        """Check the call without running it, and return its passes. No value of ``logits`` is read."""
        call = _Arguments(logits, targets, sample_weight, self.normalizer, str(self.reduction), False)
        passes = []
        for planned in self._planned_on(logits.device.type, logits.shape[-1], in_place=False):
            engine = {**planned.common, **call.engine(planned.reduction)}
            own = prepare(planned.term, logits, targets, **engine, keep=planned.loss is None)
            passes.append(CheckedPass(planned.coefficient, own, planned.places, planned.shares))
        return passes

    def note(
        self,
        passes: list[CheckedPass],
        outcomes: Sequence[tuple[Tensor, Tensor]],
        leading: tuple[int, ...] | None = None,
    ) -> None:
        """Store what the terms' values follow from; ``leading`` is the shape of the values of rows."""
        results = tuple(
            PassResult(places, shares, (kept if shares else value).detach())
            for (_, _, places, shares), (value, kept) in zip(passes, outcomes, strict=True)
        )
        made = passes[0].call
        rows = made.logits.shape[:-1] if leading is None else leading
        tensors = made.tensors
        found = TermValues(results, tuple(rows), str(self.reduction), tensors.sample_weight, tensors.normalizer)
        self._term_values = found.fixed()

    def initial_bias(self, num_labels: int) -> float:
        """Return the initial bias of the first term."""
        return self.terms[0][1].initial_bias(num_labels)

    def _share(self, logits: Tensor, targets: Tensor | CSRTargets, items: float | Tensor) -> Tensor:
        # The terms may have different means, so the sum is scaled as it is.
        elements = math.prod(logits.shape)
        return self(logits, targets) * (elements / items)

    _undecided = "its terms need not agree"

    def _predicted(self, s: Tensor) -> Tensor:
        raise self._no_threshold(self._undecided)

    def plan(self, device: torch.device | str = "cpu") -> list[Pass]:
        """Return which terms run together on a device, and on which backend (None for a term by itself).

        Example:
            >>> (ZLPRLoss() + DiceLoss() + DiceLoss(average="macro")).plan()
            [Pass(terms=(1, 0), backend='cpu'), Pass(terms=(2,), backend=None)]
        """
        return _plan(_prepare(self.terms, self._common_arguments()), torch.device(device).type)

    def _common_arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_TERMS}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CompoundLoss:
        """Move or convert the module; buffers that terms share stay shared."""
        places = [(m, name) for m in self.modules() for name, b in m._buffers.items() if b is not None]
        before = [module._buffers[name] for module, name in places]
        self._last_plan = None  # which would keep the former buffers
        super()._apply(fn, recurse)
        first: dict[int, Tensor | None] = {}
        for (module, name), buffer in zip(places, before, strict=True):
            module._buffers[name] = first.setdefault(id(buffer), module._buffers[name])
        return self

    def extra_repr(self) -> str:
        """Return the coefficients and the reduction, for ``repr``."""
        return f"coefficients={self.coefficients}, reduction={self.reduction!r}"


LossModule._joined, LossModule._scaled = joined, scaled
