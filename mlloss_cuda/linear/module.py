"""What users call: ``linear_loss`` and ``LinearLoss``."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _backends, _ops
from .. import _validation as check
from .._registry import Term
from ..losses._common import LossModule, Pass
from ..targets import CSRTargets
from .function import Job, run
from .plan import Demand, LinearPlan, make_plan
from .topk import TopK, chunked_topk
from .updates import FusedUpdate

__all__ = ["LinearLoss", "linear_loss"]


def linear_loss(
    input: Tensor,  # noqa: A002 - torch's name
    linear_weight: Tensor,
    targets: Tensor | CSRTargets,
    loss: LossModule,
    *,
    linear_bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    """``loss(input @ linear_weight.T + linear_bias, targets)``, and the logits never stand in memory.

    They are formed a chunk at a time, of rows or of labels as the plan has it (:class:`LinearPlan`), turned into
    their gradient in place, and multiplied on: three matrix products in all for element-wise losses, three or four
    for others. Gradients of weight and bias are accumulated in float32.

    Args:
        input: ``[..., D]``, float32, bfloat16, float16 or float64.
        linear_weight: ``[L, D]``, of the same dtype (under autocast, of any but float64) and device.
        targets: as of the loss, for logits ``[..., L]``.
        loss: a loss module of this package, sums of them included; not :class:`SymmetricKLLoss`, nor a focal loss
            with ``rescale``. An element-wise one needs a reduction other than ``"none"``. What it learns
            (thresholds, scale, bias) gets its gradient too. ``inplace_backward`` says nothing here.
        linear_bias: ``[L]`` or None.
        sample_weight: as of the loss.
        chunk_size: rows or labels in a chunk, whichever the plan cuts (labels, where the logits fit the budget
            as they are), in place of what the budget makes it. Default None.
        memory_budget: bytes for a chunk of logits; as much again for weights that are converted or
            stepped. Default: a sixteenth of the weights' bytes, never under 64 MiB.

    Returns:
        As of the loss. Differentiable once, in input, weight, bias and what the loss learns; any ``grad_output``
        is honoured, and so is a second backward with ``retain_graph``.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: shapes or devices do not fit, or a value is out of range. The message names the
            argument, what it got and what it takes.

    Source:
        Chunks of logits whose gradient is formed in the forward: Hsu et al., "Liger Kernel", 2024,
        arXiv:2410.10989; for extreme multi-label classification: Jain et al., "Renee", 2023, and ELMO, 2025.

    Example:
        >>> features, weight = torch.randn(2, 8), torch.zeros(1000, 8, requires_grad=True)
        >>> targets = CSRTargets.from_lists([[3, 14], [159]], num_labels=1000)
        >>> value = linear_loss(features, weight, targets, ZLPRLoss())
        >>> value.backward()
        >>> weight.grad.shape
        torch.Size([1000, 8])
    """
    return _evaluate(
        input, linear_weight, targets, loss, linear_bias, sample_weight, chunk_size, memory_budget, None
    )


class LinearLoss(nn.Module):
    """A linear layer and the loss of its logits: the module of :func:`linear_loss`.

    ``weight`` ``[L, D]`` and ``bias`` ``[L]`` are named as in ``nn.Linear``, whose state it loads. The weight begins as
    there, uniform within ``1 / sqrt(D)``; the bias at what the loss does well to begin with: ``-log L`` (in a
    row the negatives of ZLPR together weigh as much as its threshold, and a sigmoid expects one label to be true),
    0 for losses of differences of logits, -1 for the squared hinge. :func:`mlloss_cuda.prior_bias` knows more.

    Args:
        in_features: D.
        num_labels: L.
        loss: a loss module of this package; see :func:`linear_loss`.
        bias: whether there is one. Default True.
        memory_budget, chunk_size: as of :func:`linear_loss`.
        fused_update: a :class:`FusedSGD` or :class:`FusedAdam` that steps weight and bias inside backward, so that
            no ``[L, D]`` gradient stands. Default None: gradients, for any optimizer.
        device, dtype: of the parameters.

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument is out of range.

    Example:
        >>> head = LinearLoss(16, 5000, ZLPRLoss())
        >>> features = torch.randn(4, 16, requires_grad=True)
        >>> targets = CSRTargets.from_lists([[1], [], [4999, 7], [2]], num_labels=5000)
        >>> head(features, targets).backward()
        >>> head.topk(features, 3).indices.shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        loss: LossModule,
        bias: bool = True,
        *,
        memory_budget: int | None = None,
        chunk_size: int | None = None,
        fused_update: FusedUpdate | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _check_count("in_features", in_features)
        self.num_labels = _check_count("num_labels", num_labels)
        _check_loss(loss)
        check.check_bool("bias", bias)
        self.memory_budget = _check_optional_count("memory_budget", memory_budget)
        self.chunk_size = _check_optional_count("chunk_size", chunk_size)
        if fused_update is not None and not isinstance(fused_update, FusedUpdate):
            raise TypeError(f"fused_update: expected a FusedSGD, a FusedAdam or None, got {fused_update!r}")
        self.weight = nn.Parameter(torch.empty(num_labels, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(num_labels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.loss = loss
        self.fused_update = fused_update
        self.reset_parameters()
        if fused_update is not None:
            _check_steppable(self.weight)
            fused_update.bind([own for own in (self.weight, self.bias) if own is not None])

    def reset_parameters(self) -> None:
        """As they begin."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.constant_(self.bias, self.loss.initial_bias(self.num_labels))

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        targets: Tensor | CSRTargets,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss; shapes as in :func:`linear_loss`."""
        return _evaluate(
            input,
            self.weight,
            targets,
            self.loss,
            self.bias,
            sample_weight,
            self.chunk_size,
            self.memory_budget,
            self.fused_update,
        )

    def plan(self, rows: int, *, training: bool = True) -> LinearPlan:
        """How a call with so many rows runs: chunks, matrix products, memory, traffic. Nothing is run.

        Of the dtypes that hold now, under autocast those that it makes of them.

        Example:
            >>> print(LinearLoss(768, 131073, ZLPRLoss()).plan(1024))
            1024 x 131,073 logits of 768 features by labels: 9 chunks of ..., 4 matrix products, ...
        """
        _check_count("rows", rows)
        dtype = _product_dtype(self.weight)
        terms = self.loss.terms_on(self.weight.device.type)
        return make_plan(
            _demand(
                rows,
                self.weight,
                dtype,
                self.bias is not None,
                terms,
                _takes_parts(terms, self.weight.device.type),
                training,
                _is_late(self.loss, terms, dtype, self.fused_update),
                self.fused_update if training else None,
                self.chunk_size,
                self.memory_budget,
            )
        )

    @torch.no_grad()
    def topk(self, input: Tensor, k: int, exclude: CSRTargets | None = None) -> TopK:  # noqa: A002
        """The k labels of each row with the highest logits, found chunk by chunk.

        Args:
            input: ``[..., D]``.
            k: from 1 to L.
            exclude: labels that are not to appear, of as many rows: items already seen, say. All of a row's
                entries are, whatever their ``values``.

        Returns:
            Logits and labels ``[..., k]``, as of ``torch.topk``: the highest first, and of equal ones the lowest
            label. Where a row has fewer than k labels above -inf that are not excluded, the rest are label -1
            and logit -inf. What the loss adds to logits (scale, bias, threshold) is not applied.

        Raises:
            TypeError: an argument has another type or dtype.
            ValueError: k is more than L, or shapes do not fit.

        Example:
            >>> head = LinearLoss(2, 3, ZLPRLoss(), bias=False)
            >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
            >>> head.topk(torch.tensor([[5.0, 1.0]]), 2).indices
            tensor([[0, 2]])
        """
        inputs = _check_input(input, self.weight, self.bias)
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k: expected an int, got {k!r}")
        if not 1 <= k <= self.num_labels:
            raise ValueError(f"k: expected 1 to {self.num_labels}, the number of labels, got {k}")
        flat = inputs.reshape(-1, self.in_features)
        if exclude is not None:
            if not isinstance(exclude, CSRTargets):
                raise TypeError(f"exclude: expected a CSRTargets or None, got {type(exclude).__name__}")
            if exclude.num_labels != self.num_labels or len(exclude) != flat.shape[0]:
                raise ValueError(
                    f"exclude: expected {flat.shape[0]} rows and {self.num_labels} labels, "
                    f"got {len(exclude)} and {exclude.num_labels}"
                )
            if exclude.device != flat.device:
                raise ValueError(f"exclude: expected on the input's device {flat.device}, got {exclude.device}")
        with torch.autocast(flat.device.type, enabled=False):
            found = chunked_topk(flat, self.weight, self.bias, k, exclude, self.memory_budget)
        return TopK(*(part.reshape(*inputs.shape[:-1], k) for part in found))

    def extra_repr(self) -> str:
        """Sizes, and how weights step."""
        update = "" if self.fused_update is None else f", fused_update={type(self.fused_update).__name__}"
        return f"in_features={self.in_features}, num_labels={self.num_labels}, bias={self.bias is not None}{update}"


# ---- checks --------------------------------------------------------------------------------------


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name}: expected >= 1, got {value}")
    return value  # type: ignore[return-value]


def _check_optional_count(name: str, value: Any) -> int | None:
    return None if value is None else _check_count(name, value)


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, LossModule):
        raise TypeError(f"loss: expected a loss module of mlloss_cuda, got {loss!r}")
    for term in loss.terms_on("cpu"):
        if term.spec.raw_targets:
            raise TypeError(f"loss: expected one of logits and targets, got {loss!r}, which takes two logits")
        if term.alone:
            raise ValueError(f"loss: expected one that a single pass evaluates, got {loss!r}; leave rescale out")
        if loss.reduction == "none" and term.grouping == "element":
            raise ValueError(
                "loss: expected a reduction other than 'none' of an element-wise loss, whose values are as many as logits"
            )


def _check_steppable(weight: Tensor) -> None:
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise TypeError(f"fused_update: expected float32, bfloat16 or float64 weights, got {weight.dtype}")


def _product_dtype(tensor: Tensor) -> torch.dtype:
    """What F.linear would multiply it as."""
    kind = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return tensor.dtype
    return torch.get_autocast_dtype(kind)


def _check_input(inputs: Any, weight: Any, bias: Any) -> Tensor:
    """Shapes, dtypes and devices; the input, of the dtype that is multiplied."""
    for name, value, dim in (("linear_weight", weight, 2), ("linear_bias", bias, 1)):
        if value is None and dim == 1:
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype not in check.LOGITS_DTYPES:
            raise TypeError(f"{name}: expected a dense floating tensor, got {check.came(value)}")
        if value.dim() != dim:
            raise ValueError(f"{name}: expected {'[L, D]' if dim == 2 else '[L]'}, got shape {tuple(value.shape)}")
    if not isinstance(inputs, Tensor) or inputs.layout != torch.strided or inputs.dtype not in check.LOGITS_DTYPES:
        raise TypeError(f"input: expected a dense floating tensor [..., D], got {check.came(inputs)}")
    if inputs.dim() == 0 or inputs.shape[-1] != weight.shape[1]:
        raise ValueError(f"input: expected shape [..., {weight.shape[1]}], got {tuple(inputs.shape)}")
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise ValueError(f"linear_bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, value in (("linear_weight", weight), ("linear_bias", bias)):
        if value is None:
            continue
        if value.device != inputs.device:
            raise ValueError(f"{name}: expected on the input's device {inputs.device}, got {value.device}")
        if _product_dtype(value) != _product_dtype(inputs):
            raise TypeError(f"{name}: expected the input's dtype {inputs.dtype}, got {value.dtype}")
    return inputs.to(_product_dtype(inputs))


# ---- from a call to its plan ---------------------------------------------------------------------


def _takes_parts(terms: list[Term], device_type: str) -> bool:
    return all(_backends.takes_parts(_backends.choose(device_type, term.spec.name)) for term in terms)


def _is_late(loss: LossModule, terms: list[Term], dtype: torch.dtype, update: FusedUpdate | None) -> bool:
    """Whether the gradient is not simply what the forward makes of it, times grad_output."""
    each = loss.reduction == "none" and any(term.grouping != "micro" for term in terms)
    return each or dtype == torch.float16 or update is not None


def _demand(
    rows: int,
    weight: Tensor,
    dtype: torch.dtype,
    bias: bool,
    terms: list[Term],
    parts: bool,
    training: bool,
    late: bool,
    update: FusedUpdate | None,
    chunk_size: int | None,
    memory_budget: int | None,
) -> Demand:
    counts = [_ops.counts_of(term.spec.name) for term in terms]
    return Demand(
        rows=rows,
        labels=weight.shape[0],
        features=weight.shape[1],
        itemsize=dtype.itemsize,
        weight_itemsize=weight.dtype.itemsize,
        bias=bias,
        device_type=weight.device.type,
        passes=len(terms),
        within_rows=all(term.grouping in ("element", "samples") for term in terms),
        within_labels=all(term.grouping in ("element", "macro") for term in terms),
        parts=parts,
        late_sums=any(count.late_sums for count in counts),
        statistics=sum(count.statistics for count in counts),
        training=training,
        late=late,
        scratch=0 if update is None else update.scratch(weight),
        memory_budget=memory_budget,
        chunk_size=chunk_size,
    )


def _evaluate(
    inputs: Any,
    weight: Any,
    targets: Any,
    loss: Any,
    bias: Any,
    sample_weight: Any,
    chunk_size: Any,
    memory_budget: Any,
    update: FusedUpdate | None,
) -> Tensor:
    inputs = _check_input(inputs, weight, bias)
    _check_loss(loss)
    _check_optional_count("chunk_size", chunk_size)
    _check_optional_count("memory_budget", memory_budget)
    leading, labels = inputs.shape[:-1], weight.shape[0]
    # Of the logits' shape, dtype and device, and without their memory.
    shape_of_logits = inputs.new_empty(()).expand(*leading, labels)
    passes = loss.passes(shape_of_logits, targets, sample_weight)
    if update is not None:
        update = _checked_update(update, inputs, weight, bias)
    if any(own.call.backend == "reference" for own in passes) or 0 in (inputs.numel(), weight.numel()):
        return _composed(inputs, weight, bias, targets, loss, sample_weight, update)

    flat = inputs.reshape(math.prod(leading), inputs.shape[-1])
    value = _run(flat, weight, bias, loss, passes, chunk_size, memory_budget, update)
    per_row = loss.reduction == "none" and all(own.call.term.grouping == "samples" for own in passes)
    return value.reshape(leading) if per_row else value


@torch.compiler.disable(reason="the head's chunks run as they are: compile the rest of the model")
def _run(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    loss: LossModule,
    passes: list[Pass],
    chunk_size: int | None,
    memory_budget: int | None,
    update: FusedUpdate | None,
) -> Tensor:
    job = _job(inputs, weight, bias, loss, passes, chunk_size, memory_budget, update)
    sides = [side for own in passes for side in own.call.sides]
    value, outcomes = run(inputs, weight, bias, sides, job)
    loss.note(passes, outcomes)
    return value


def _checked_update(update: FusedUpdate, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> FusedUpdate | None:
    """The update, if this call has a backward that steps."""
    if inputs.dtype == torch.float16:
        raise TypeError("fused_update: expected products in bfloat16 or float32, got float16, whose loss scale it would step by")
    for parameter in (weight, bias):
        if parameter is not None:
            update.check_parameter(parameter)
    return update if torch.is_grad_enabled() and weight.requires_grad else None


def _job(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    loss: LossModule,
    passes: list[Pass],
    chunk_size: int | None,
    memory_budget: int | None,
    update: FusedUpdate | None,
) -> Job:
    def wants(tensor: Tensor | None) -> bool:
        return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()

    terms = [own.call.term for own in passes]
    needs = (wants(inputs), wants(weight), wants(bias))
    sides = [own.call.sides for own in passes]
    learned = tuple((wants(own.row_offset), wants(own.logit_scale), wants(own.label_offset)) for own in sides)
    training = any(needs) or any(map(any, learned))
    late = _is_late(loss, terms, inputs.dtype, update)
    parts = all(_backends.takes_parts(own.call.backend) for own in passes)
    demand = _demand(
        inputs.shape[0],
        weight,
        inputs.dtype,
        bias is not None,
        terms,
        parts,
        training,
        late,
        update,
        chunk_size,
        memory_budget,
    )
    return Job(
        make_plan(demand),
        tuple(own.coefficient for own in passes),
        tuple(own.call.options for own in passes),
        needs,
        learned,
        late and training,
        update,
    )


def _composed(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Any,
    loss: LossModule,
    sample_weight: Tensor | None,
    update: FusedUpdate | None,
) -> Tensor:
    """Logits and all, where there are no kernels, or nothing to compute."""
    if update is not None:
        if 0 not in (inputs.numel(), weight.numel()):
            raise ValueError("fused_update: expected a backend with kernels, got the reference")
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return loss(F.linear(inputs, weight, bias), targets, sample_weight)
