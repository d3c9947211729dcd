"""Losses of labels that lie on several devices, on an existing process group of ``torch.distributed``."""

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
    """A process group that this process is in; None is the default one."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(f"{name}: expected torch.distributed to be initialised; call init_process_group first")
    if group is None:
        return distributed.group.WORLD  # type: ignore[return-value]
    if not isinstance(group, distributed.ProcessGroup):
        raise TypeError(f"{name}: expected a torch.distributed process group or None, got {check.received(group)}")
    return group


def shard_labels(loss: LossModule, group: ProcessGroup | None = None) -> ShardedLoss:
    """A loss of logits whose columns lie on the ranks of a process group, each with its own slice of the labels.

    Value and gradients are those of one device. For each row a few floats are gathered (its statistics, once;
    decoupled softmax: twice), for element-wise losses one number; nothing that is sent grows with the
    labels. Slices are in the order of ranks, of any sizes, empty ones too; the first call asks every rank for its size,
    and that holds from then on. In place of a slice a DTensor may be handed to any loss as it is.

    Args:
        loss: any loss module, sums included, of *all* labels and the same on every rank: ``weight``, ``pos_weight``,
            ``logit_bias`` and thresholds have all labels' entries, ``label_smoothing`` is over all labels.
            What it learns gets the whole gradient on every rank; one that has an entry a label
            costs an all-reduce of so many.
        group: of ``torch.distributed``: Gloo for CPU tensors, NCCL for CUDA ones. Default None: all processes.

    Returns:
        A module, called as ``loss``: ``(logits, targets, sample_weight=None)``. ``logits`` are the rank's own,
        ``[..., L_rank]``; ``targets`` are dense ones of the rank's columns (or of all), or a ``CSRTargets`` of
        all labels (handed over whole, and read for the rank's own) or of the rank's
        (``CSRTargets.label_range``). The result is the same on every rank, but for ``reduction="none"`` of losses
        that have a value for each element or label: these are the rank's. Every rank calls ``backward``.

    Raises:
        TypeError, ValueError: as of the loss; and on every rank, where ranks disagree about rows, labels, dtype or
            loss, or one of them has failed its checks: always on CPU tensors, on CUDA ones where
            ``TORCH_DISTRIBUTED_DEBUG`` asks for it (the check synchronises).

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
    """What :func:`shard_labels` makes: the loss module is ``loss``, and its state is this one's."""

    def __init__(self, loss: LossModule, group: ProcessGroup) -> None:
        super().__init__()
        self.loss = loss
        self._place = _Place(group)

    def forward(self, logits: Tensor, targets: Tensor | CSRTargets, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of all ranks. A compiled model breaks its graph here."""
        run = _uncompiled if torch.compiler.is_compiling() else _evaluate
        return run(self, logits, targets, sample_weight)

    def extra_repr(self) -> str:
        """How many ranks."""
        return f"ranks={self._place.group.size()}"


class _Place:
    """The group, and from the first call on what its ranks have of the labels."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self._shards: LabelShards | None = None

    def shards_of(self, logits: Any) -> LabelShards:
        if self._shards is None:
            self._shards = _ask(self.group, logits)
        return self._shards

    def __deepcopy__(self, memo: dict[int, Any]) -> _Place:
        return _Place(self.group)  # which cannot be copied, nor need be


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


def _ask(group: ProcessGroup, logits: Any) -> LabelShards:
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
    "a mlloss_cuda loss of sharded labels runs collectives, which no graph holds; compile with fullgraph=False, or "
    "compile what makes the logits and call the loss outside",
)
