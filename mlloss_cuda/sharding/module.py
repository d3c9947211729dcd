"""``shard_labels``, and the module that it returns: a loss whose labels are sharded over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import _validation as check
from .._graph_break import uncompiled
from ..losses._module import LossModule
from ..targets import CSRTargets
from .shards import LabelShards, ShardedLogits

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["ShardedLoss", "check_group", "shard_labels"]


def check_group(name: str, group: Any) -> ProcessGroup:
    """Check the group, and return it; None stands for the default group."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(f"{name}: expected torch.distributed to be initialised; call init_process_group first")
    if group is None:
        return distributed.group.WORLD  # type: ignore[return-value]
    if not isinstance(group, distributed.ProcessGroup):
        raise TypeError(f"{name}: expected a torch.distributed process group or None, got {check.received(group)}")
    return group


def shard_labels(loss: LossModule, group: ProcessGroup | None = None) -> ShardedLoss:
    """Return a loss of logits whose columns are sharded over the ranks of a process group, a slice of labels per rank.

    Value and gradients are those of one device. Row-wise losses gather a few floats per row (its statistics, once;
    twice for decoupled softmax), element-wise losses one number; no message grows with the number of labels. Slices
    are in the order of ranks and may have any size, also 0. The first call gathers the sizes, and later calls must
    have the same. A DTensor needs no ``shard_labels``: every loss accepts it directly.

    Args:
        loss: any loss module or sum of losses, for *all* labels and the same on every rank: ``weight``, ``pos_weight``,
            ``logit_bias`` and thresholds have entries for all labels, and ``label_smoothing`` is over all labels.
            Its learned parameters get the whole gradient on every rank; a parameter with an entry per label costs
            an all-reduce of its size.
        group: a ``torch.distributed`` process group: Gloo for CPU tensors, NCCL for CUDA tensors. Default None: all
            processes.

    Returns:
        A module with the same call as ``loss``: ``(logits, targets, sample_weight=None)``. ``logits`` are those of the
        rank, ``[..., L_rank]``. ``targets`` are dense, with the rank's columns or all columns, or a ``CSRTargets`` of
        all labels (of which each rank reads its own) or of the rank's labels (``CSRTargets.label_range``). The result
        is the same on every rank, except for ``reduction="none"`` of losses with a value for each element or label:
        each rank then gets its own values. Every rank must call ``backward``.

    Raises:
        TypeError, ValueError: the same as for the loss. They are raised on every rank if ranks disagree about rows,
            labels, dtype or loss, or if a check fails on one of them. This comparison synchronises: it always runs
            for CPU tensors, and for CUDA tensors only if ``TORCH_DISTRIBUTED_DEBUG`` is set.

    Source:
        Softmax over a sharded vocabulary: Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053.

    Example:
        >>> from torch import distributed
        >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        >>> loss = shard_labels(ZLPRLoss())
        >>> loss(torch.tensor([[2.0, -1.0]]), CSRTargets.from_lists([[0]], num_labels=2)).item()
        0.44...
        >>> distributed.destroy_process_group()
    """
    if not isinstance(loss, LossModule):
        raise TypeError(f"loss: expected a loss module of mlloss_cuda, got {loss!r}")
    return ShardedLoss(loss, check_group("group", group))


class ShardedLoss(nn.Module):
    """The module that :func:`shard_labels` returns. Its only submodule is ``loss``, whose state it has."""

    def __init__(self, loss: LossModule, group: ProcessGroup) -> None:
        super().__init__()
        self.loss = loss
        self._place = _Place(group)

    @property
    def reduction(self) -> str:
        """The reduction of the loss."""
        return str(self.loss.reduction)

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of all ranks. A compiled model breaks its graph here."""
        run = _uncompiled if torch.compiler.is_compiling() else _evaluate
        return run(self, logits, targets, sample_weight)

    def extra_repr(self) -> str:
        """Return the number of ranks, for ``repr``."""
        return f"ranks={self._place.group.size()}"


class _Place:
    """The process group and, from the first call on, the slices of labels on its ranks."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self._shards: LabelShards | None = None

    def shards_of(self, logits: Any) -> LabelShards:
        if self._shards is None:
            self._shards = _gather_sizes(self.group, logits)
        return self._shards

    def __deepcopy__(self, memo: dict[int, Any]) -> _Place:
        return _Place(self.group)  # a process group cannot be copied, and need not be


def _evaluate(sharded: ShardedLoss, logits: Tensor, targets: Any, sample_weight: Tensor | None) -> Tensor:
    shards = sharded._place.shards_of(logits)
    own = shards.sizes[shards.rank]
    try:
        if check.check_logits(logits).shape[-1] != own:
            raise ValueError(f"logits: expected the {own} labels of the first call, got {logits.shape[-1]}")
    except (TypeError, ValueError) as error:
        shards.fail(error, _device_of(logits))
    whole: Any = ShardedLogits(logits, shards)
    return sharded.loss(whole, targets, sample_weight)


def _gather_sizes(group: ProcessGroup, logits: Any) -> LabelShards:
    try:
        checked = check.check_logits(logits)
    except (TypeError, ValueError):
        LabelShards.gathered("logits", group, -1, _device_of(logits))
        raise
    return LabelShards.gathered("logits", group, checked.shape[-1], checked.device)


def _device_of(logits: Any) -> torch.device:
    return logits.device if isinstance(logits, Tensor) else torch.device("cpu")


_uncompiled = uncompiled(
    _evaluate,
    "a mlloss_cuda loss of sharded labels runs collectives, which no graph can contain; compile with fullgraph=False, "
    "or compile the model that computes the logits and call the loss outside",
)
