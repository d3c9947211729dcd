"""The public interface of the fused linear layer: ``linear_loss`` and ``LinearLoss``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .. import _validation as check
from .._graph_break import uncompiled
from ..losses._module import LossModule
from ..targets import CSRTargets, as_int
from .call import Settings, evaluate, plan_of
from .checkpoint import HeadState
from .checks import (
    check_count,
    check_input,
    check_loss,
    check_optional_count,
    check_share,
    check_steppable,
    product_dtype,
)
from .placement import common_number, distributed_parameter, generator_of, local_of, place
from .plan import LinearPlan
from .topk import TopK, chunked_topk, sharded_topk
from .updates import FusedUpdate

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

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
    """Compute ``loss(input @ linear_weight.T + linear_bias, targets)`` without storing all logits.

    The logits are formed one chunk at a time, of rows or of labels as the plan decides (:class:`LinearPlan`), and
    each chunk is overwritten by its gradient, which enters the next products: three to five matrix products in all,
    which ``LinearLoss.plan`` counts. The logits are stored as a whole only if they are small beside
    the gradients or fit the ``memory_budget``. Gradients of weight and bias are accumulated in float32.

    Args:
        input: ``[..., D]``, float32, bfloat16, float16 or float64.
        linear_weight: ``[L, D]``, of the same dtype (under autocast, any but float64) and device.
        targets: the same as for the loss, for logits ``[..., L]``.
        loss: a loss module of this package or a sum of them; not :class:`SymmetricKLLoss`, nor a focal loss
            with ``rescale``. An element-wise loss needs a reduction other than ``"none"``. Learned thresholds,
            scale and bias of the loss get their gradients too. ``inplace_backward`` has no effect here.
        linear_bias: ``[L]`` or None.
        sample_weight: the same as for the loss.
        chunk_size: the number of rows or labels in a chunk, whichever the plan cuts (labels, if all logits fit the
            budget); overrides the size that follows from the budget. Default None.
        memory_budget: bytes for a chunk of logits; the same number again may be used for weights that are converted
            or updated. Default: a sixteenth of the weights' bytes, at least 64 MiB.

    Returns:
        The loss's own result. It is differentiable once, in input, weight, bias and the loss's learned parameters;
        any ``grad_output`` is supported, and so is a second backward with ``retain_graph``.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes or devices do not fit, or a value is out of range. The message names the
            argument, the value it got and the values it takes.

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
    settings = Settings(chunk_size, memory_budget)
    return evaluate(input, linear_weight, linear_bias, targets, loss, sample_weight, settings)


class LinearLoss(nn.Module):
    """A linear layer and the loss of its logits: the module of :func:`linear_loss`.

    ``weight`` ``[L, D]`` and ``bias`` ``[L]`` are named as in ``nn.Linear``, and its state dict loads here. The weight
    is initialised as in ``nn.Linear``, uniform within ``1 / sqrt(D)``; the bias gets a good initial value for the
    loss: ``-log L`` (the sum of ``e^s`` over a row's negatives is then near 1, the constant beside it in ZLPR, and
    sigmoids expect one true label), 0 for losses of differences of logits, -1 for the squared hinge.
    :func:`mlloss_cuda.prior_bias` computes a better one from label frequencies.

    Args:
        in_features: D.
        num_labels: L.
        loss: a loss module of this package; see :func:`linear_loss`.
        bias: whether the layer has a bias. Default True.
        memory_budget, chunk_size: as in :func:`linear_loss`.
        fused_update: a :class:`FusedSGD` or :class:`FusedAdam` that updates weight and bias inside backward, so that
            no ``[L, D]`` gradient is stored. Default None: backward leaves gradients for any optimizer.
        process_group: the ranks that share the labels, each with a slice of them, ``[L_rank, D]``. With a
            ``torch.distributed`` group (Gloo, NCCL), parameters are plain tensors that hold the rank's slice. With a
            ``DeviceMesh`` of one dimension, they are DTensors, and checkpoints of ``torch.distributed.checkpoint``
            load on any number of ranks; a mesh excludes ``fused_update``. Input, targets and loss are the same on
            every rank, as on a single device (:func:`shard_labels` lists the alternatives); the input's gradient is
            the complete one, summed over ranks once while the weight's gradient is formed. Default None.
        local_labels: the number of labels on this rank of a process group; it is exchanged between ranks once.
            Default: the split of ``torch.chunk``.
        device, dtype: device and dtype of the parameters.

    Raises:
        TypeError: an argument has a wrong type.
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
        process_group: ProcessGroup | DeviceMesh | None = None,
        local_labels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_count("in_features", in_features)
        self.num_labels = check_count("num_labels", num_labels)
        check_loss(loss)
        check.check_bool("bias", bias)
        self.memory_budget = check_optional_count("memory_budget", memory_budget)
        self.chunk_size = check_optional_count("chunk_size", chunk_size)
        if fused_update is not None and not isinstance(fused_update, FusedUpdate):
            raise TypeError(f"fused_update: expected a FusedSGD, a FusedAdam or None, got {fused_update!r}")
        placement = place(process_group, num_labels, local_labels, fused_update is not None)
        self.shards = placement.shards
        local = num_labels if self.shards is None else self.shards.sizes[self.shards.rank]
        self.weight = nn.Parameter(torch.empty(local, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(local, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.loss = loss
        self.fused_update = fused_update
        self.reset_parameters()
        if placement.mesh is not None:
            for name, parameter in list(self.named_parameters(recurse=False)):
                setattr(self, name, distributed_parameter(parameter, placement.mesh, num_labels))
        if fused_update is not None:
            check_steppable(self.weight)
            first = 0 if self.shards is None else self.shards.own.start
            if self.shards is not None:
                fused_update.param_groups[0]["seed"] = common_number(fused_update.param_groups[0]["seed"], self.shards)
            fused_update.bind(self._own_parameters(), first)

    def _own_parameters(self) -> list[nn.Parameter]:
        return [each for each in (self.weight, self.bias) if each is not None]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Convert or move the head, as any module; ``fused_update`` gets parameters that are new objects."""
        super()._apply(fn, recurse)
        if self.fused_update is not None:
            self.fused_update.follow(self._own_parameters())
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Load the head's tensors, as any module; ``fused_update`` gets parameters that are new objects."""
        super()._load_from_state_dict(*arguments)
        if self.fused_update is not None:
            self.fused_update.follow(self._own_parameters())

    def reset_parameters(self) -> None:
        """Set weight and bias to their initial values."""
        bound = 1 / math.sqrt(self.in_features)
        weight = local_of(self.weight.detach())
        # Ranks with the same seed still draw different weights.
        generator = None if self.shards is None or weight.is_meta else generator_of(self.shards.rank, weight.device)
        nn.init.uniform_(weight, -bound, bound, generator)
        if self.bias is not None:
            nn.init.constant_(local_of(self.bias.detach()), self.loss.initial_bias(self.num_labels))

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        targets: Tensor | CSRTargets,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss; shapes are as in :func:`linear_loss`."""
        return evaluate(input, self.weight, self.bias, targets, self.loss, sample_weight, self._settings)

    @property
    def _settings(self) -> Settings:
        return Settings(self.chunk_size, self.memory_budget, self.fused_update, self.shards)

    def plan(self, rows: int, *, training: bool = True) -> LinearPlan:
        """Return how a call with this many rows would run: chunks, matrix products, memory, traffic.

        Nothing is run. The plan is for the current dtypes, after autocast where it is enabled. A head on the
        ``"meta"`` device is planned as on a CPU.

        Example:
            >>> print(LinearLoss(768, 131073, ZLPRLoss(), device="meta", dtype=torch.bfloat16).plan(1024))
            1024 x 131,073 logits of 768 features by labels: 5 chunks of ..., 4 matrix products, ...
        """
        check_count("rows", rows)
        check.check_bool("training", training)
        weight = local_of(self.weight.detach())
        dtype = product_dtype(weight)
        return plan_of(rows, dtype, weight, self.bias is not None, self.loss, training, self._settings)

    @torch.no_grad()
    def topk(self, input: Tensor, k: int, exclude: CSRTargets | None = None) -> TopK:  # noqa: A002
        """Find the k labels of each row with the highest logits, chunk by chunk.

        Args:
            input: ``[..., D]``.
            k: from 1 to L.
            exclude: labels that must not appear, such as items already seen; one row for each row of the input. All
                entries of a row are excluded, whatever their ``values``.

        Returns:
            Logits and labels ``[..., k]``, as from ``torch.topk``: the highest first, and of equal logits the lowest
            label first. If a row has fewer than k labels that are above -inf and not excluded, the rest are label -1
            and logit -inf. The loss's own scale, bias and threshold are not applied to the logits.

        Raises:
            TypeError: an argument has a wrong type or dtype.
            ValueError: k is more than L, or shapes do not fit.

        Example:
            >>> head = LinearLoss(2, 3, ZLPRLoss(), bias=False)
            >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
            >>> head.topk(torch.tensor([[5.0, 1.0]]), 2).indices
            tensor([[0, 2]])
        """
        if self.shards is not None:
            return (_uncompiled if torch.compiler.is_compiling() else _sharded_topk)(self, input, k, exclude)
        flat = self._checked_for_topk(input, k, exclude)
        with torch.autocast(flat.device.type, enabled=False):
            found = chunked_topk(flat, self.weight, self.bias, k, exclude, self.memory_budget)
        return TopK(*(part.reshape(*input.shape[:-1], k) for part in found))

    def _checked_for_topk(self, input: Tensor, k: int, exclude: CSRTargets | None) -> Tensor:  # noqa: A002
        """Check all arguments of :meth:`topk`, and return the input as ``[rows, D]``."""
        weight, bias = local_of(self.weight), None if self.bias is None else local_of(self.bias)
        inputs = check_input(input, weight, bias)
        check_share(weight, self.shards)
        if isinstance(k, bool) or not isinstance(as_int(k), int):
            raise TypeError(f"k: expected an int, got {k!r}")
        if not 1 <= k <= self.num_labels:
            raise ValueError(f"k: expected 1 to {self.num_labels}, the number of labels, got {k}")
        flat = inputs.reshape(-1, self.in_features)
        if exclude is not None:
            if not isinstance(exclude, CSRTargets):
                raise TypeError(f"exclude: expected a CSRTargets or None, got {type(exclude).__name__}")
            if exclude.num_labels not in (self.num_labels, weight.shape[0]) or len(exclude) != flat.shape[0]:
                raise ValueError(
                    f"exclude: expected {flat.shape[0]} rows and {self.num_labels} labels, "
                    f"got {len(exclude)} and {exclude.num_labels}"
                )
            if exclude.device != flat.device:
                raise ValueError(f"exclude: expected on the input's device {flat.device}, got {exclude.device}")
        return flat

    def checkpoint(self) -> HeadState:
        """Return the head's state for ``torch.distributed.checkpoint``; it loads on any number of ranks.

        Save with ``torch.distributed.checkpoint.save({"head": head.checkpoint()}, checkpoint_id=folder)`` on all
        ranks, and ``load`` the same dictionary, in place. The state is weight, bias, the loss's learned parameters,
        and the moments, step counts and options of a ``fused_update``. (The parameters of a head on a mesh are
        DTensors, so its ``state_dict`` serves as well.)

        Raises:
            ValueError: the ranks' slices differ from those of ``torch.chunk``.
        """
        return HeadState(self)

    def extra_repr(self) -> str:
        """Return the sizes and the kind of ``fused_update``."""
        update = "" if self.fused_update is None else f", fused_update={type(self.fused_update).__name__}"
        own = "" if self.shards is None else f", local_labels={self.shards.sizes[self.shards.rank]}"
        return (
            f"in_features={self.in_features}, num_labels={self.num_labels}{own}, bias={self.bias is not None}{update}"
        )


def _sharded_topk(head: LinearLoss, input: Tensor, k: int, exclude: CSRTargets | None) -> TopK:  # noqa: A002
    shards, weight = head.shards, local_of(head.weight)
    assert shards is not None
    flat = shards.agreed(
        lambda: head._checked_for_topk(input, k, exclude),
        lambda flat: f"topk of {k} for {flat.shape[0]} rows, {flat.dtype}",
        weight.device,
    )
    bias = None if head.bias is None else local_of(head.bias)
    with torch.autocast(flat.device.type, enabled=False):
        found = sharded_topk(flat, weight, bias, k, exclude, head.memory_budget, shards)
    return TopK(*(part.reshape(*input.shape[:-1], k) for part in found))


_uncompiled = uncompiled(
    _sharded_topk,
    "LinearLoss.topk of sharded labels runs collectives, which a compiled graph cannot contain; compile with "
    "fullgraph=False, or compile the encoder and call topk outside",
)
