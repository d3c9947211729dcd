"""Labels that lie on several ranks: whose are which, what goes over the wire, and what a rank says when it fails.

The only place that sends anything. Everything that is sent has as many bytes on every rank, whatever its share of the
labels; what is gathered is summed in the order of ranks, so that they agree to the bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work

__all__ = [
    "LabelShards",
    "ShardedLogits",
    "as_sharded",
    "chunk_sizes",
    "from_dtensor",
    "group_of_mesh",
    "is_dtensor",
    "replicated",
    "total_over",
]

T = TypeVar("T")


def chunk_sizes(labels: int, ranks: int) -> tuple[int, ...]:
    """As ``torch.chunk`` and DTensor cut: the first ranks have one size, the last may have less, or none."""
    size = -(-labels // ranks)
    return tuple(max(0, min(size, labels - rank * size)) for rank in range(ranks))


@dataclass(frozen=True, eq=False)
class LabelShards:
    """How the labels lie over the ranks of a group: each has a slice, in the order of ranks."""

    group: ProcessGroup
    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def chunked(cls, group: ProcessGroup, labels: int) -> LabelShards:
        """In torch's own chunks: nothing is asked of other ranks."""
        return cls(group, chunk_sizes(labels, group.size()), group.rank())

    @classmethod
    def gathered(cls, name: str, group: ProcessGroup, own: int, device: torch.device) -> LabelShards:
        """Of slices that each rank knows for itself; waits for all of them. ``own`` below 0: this rank has failed."""
        sizes = _gather(torch.tensor([own], device=device), group).flatten().tolist()
        failed = [rank for rank, size in enumerate(sizes) if size < 0]
        if failed and own >= 0:
            raise ValueError(f"{name}: rank {failed[0]} has none that can be served; its own error says why")
        return cls(group, tuple(sizes), group.rank())

    def __deepcopy__(self, memo: dict[int, Any]) -> LabelShards:
        return self  # a copy of a module is of the same group

    @cached_property
    def labels(self) -> int:
        """Of all ranks."""
        return sum(self.sizes)

    @cached_property
    def own(self) -> slice:
        """This rank's, among all labels."""
        first = sum(self.sizes[: self.rank])
        return slice(first, first + self.sizes[self.rank])

    @property
    def ranks(self) -> int:
        """How many."""
        return len(self.sizes)

    # ---- over the wire ----

    def gather(self, tensor: Tensor) -> Tensor:
        """``[ranks, ...]``, of tensors of one shape."""
        return _gather(tensor, self.group)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in their order, taken in float64."""
        return self.gather(tensor).sum(0, dtype=torch.float64).to(tensor.dtype)

    def begin_sum(self, tensor: Tensor) -> Work | None:
        """Sum over ranks in place; the result is there once the work, if there is any, has been waited for."""
        from torch import distributed

        return None if self.ranks == 1 else distributed.all_reduce(tensor, group=self.group, async_op=True)

    def sum_(self, tensor: Tensor) -> Tensor:
        """The same, waited for."""
        work = self.begin_sum(tensor)
        if work is not None:
            work.wait()
        return tensor

    # ---- who disagrees ----

    def agreed(self, make: Callable[[], T], describe: Callable[[T], str], device: torch.device) -> T:
        """What ``make`` makes, once every rank has made one that is described alike.

        Where asking costs nothing (Gloo), or torch's distributed debug level asks for it; else at once.
        """
        if self.ranks == 1 or not self._asks(device):
            return make()
        made, failure, said = None, None, ""
        try:
            made = make()
            said = describe(made)
        except Exception as error:
            failure, said = error, f"failed with {type(error).__name__}: {error}"
        self._compare(said, device, failure)
        assert made is not None
        return made

    def fail(self, error: Exception, device: torch.device) -> NoReturn:
        """Raise it, and let the others, who are at :meth:`agreed`, know."""
        if self.ranks > 1 and self._asks(device):
            self._compare(f"failed with {type(error).__name__}: {error}", device, error)
        raise error

    def _asks(self, device: torch.device) -> bool:
        from torch import distributed

        if device.type == "cpu":
            return True
        return bool(distributed.get_debug_level() != distributed.DebugLevel.OFF)  # type: ignore[attr-defined]

    def _compare(self, said: str, device: torch.device, failure: Exception | None) -> None:
        # A number first: what ranks say is sent only when they differ.
        number = int.from_bytes(said.encode(), "little") % (2**61 - 1)
        if failure is None and len(set(self.gather(torch.tensor([number], device=device)).flatten().tolist())) == 1:
            return
        if failure is not None:
            self.gather(torch.tensor([-1], device=device))
        from torch import distributed

        everything: list[Any] = [None] * self.ranks
        distributed.all_gather_object(everything, said, group=self.group)
        if failure is not None:
            raise failure
        other = next(rank for rank, words in enumerate(everything) if words != said)
        raise ValueError(f"ranks disagree: rank {self.rank} has {said}; rank {other} {_has(everything[other])}")


def _has(said: str) -> str:
    return said if said.startswith("failed with") else f"has {said}"


def _gather(tensor: Tensor, group: ProcessGroup) -> Tensor:
    from torch import distributed

    if group.size() == 1:
        return tensor.unsqueeze(0)
    result = tensor.new_empty(group.size() * tensor.numel())
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(result, tensor.reshape(-1), group=group)
    return result.view(group.size(), *tensor.shape)


class ShardedLogits:
    """A rank's columns of the logits, in the place of all of them: what losses are handed.

    ``shape`` is that of all; nothing but the rank's own is anywhere.
    """

    def __init__(self, local: Tensor, shards: LabelShards) -> None:
        self.local, self.shards = local, shards

    @property
    def shape(self) -> torch.Size:
        """Of the logits of all ranks together."""
        return torch.Size((*self.local.shape[:-1], self.shards.labels))

    @property
    def device(self) -> torch.device:
        """The rank's own."""
        return self.local.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return self.local.dtype

    def total(self, share: Tensor) -> Tensor:
        """Return the sum of the ranks' shares; each share's gradient is that of the sum."""
        return total_over(share, self.shards)

    def stand_in(self, like: Tensor | None = None) -> Tensor:
        """A tensor of their shape that has no memory: for what looks at shapes alone."""
        return (self.local if like is None else like).new_empty(()).expand(self.shape)


def is_dtensor(value: Any) -> bool:
    """Whether it is one, without the import that this takes: who has one has it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def as_sharded(logits: Any) -> ShardedLogits | None:
    """Return sharded logits, which a DTensor whose last dimension is sharded becomes; None for anything else."""
    if isinstance(logits, ShardedLogits):
        return logits
    return ShardedLogits(*from_dtensor("logits", logits, logits.dim() - 1)) if is_dtensor(logits) else None


def group_of_mesh(name: str, mesh: Any, dim: int = 0) -> ProcessGroup:
    """That of one of its dimensions, whose ranks are in the mesh's order."""
    group: ProcessGroup = mesh.get_group(dim)
    if mesh.get_local_rank(dim) != group.rank():
        raise ValueError(f"{name}: expected a mesh with its ranks in ascending order, got {mesh}")
    return group


def from_dtensor(name: str, tensor: Any, dim: int) -> tuple[Tensor, LabelShards]:
    """What is here of a DTensor with its labels in ``dim``, and whose the others are."""
    sharded = [i for i, own in enumerate(tensor.placements) if own.is_shard()]
    plain = all(own.is_replicate() or own.is_shard(dim) for own in tensor.placements)
    if not plain or len(sharded) != 1:
        raise ValueError(
            f"{name}: expected a DTensor with Shard({dim}), its labels, on one dimension of its mesh and Replicate() "
            f"on others, got {tuple(tensor.placements)}; redistribute it, or hand over its to_local()"
        )
    group = group_of_mesh(name, tensor.device_mesh, sharded[0])
    shards = LabelShards.chunked(group, tensor.shape[dim])
    local: Tensor = tensor.to_local()
    if local.shape[dim] != shards.sizes[shards.rank]:
        raise ValueError(
            f"{name}: expected DTensor's own chunks, {shards.sizes} of {shards.labels} labels, got {local.shape[dim]} "
            f"on rank {shards.rank}; slices of other sizes are served by a process group"
        )
    return local, shards


class _Replicated(torch.autograd.Function):
    """What every rank has the same of: its gradient is the sum of theirs."""

    @staticmethod
    def forward(tensor: Tensor, shards: LabelShards) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shards = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return ctx.shards.sum_(grad_outputs[0].clone()), None


def replicated(tensor: Tensor | None, shards: LabelShards) -> Tensor | None:
    """``tensor``, with that gradient."""
    if tensor is None or not tensor.requires_grad or shards.ranks == 1:
        return tensor
    result: Tensor = _Replicated.apply(tensor, shards)
    return result


class _Total(torch.autograd.Function):
    """The sum of the ranks' shares; each share's gradient is the sum's."""

    @staticmethod
    def forward(share: Tensor, shards: LabelShards) -> Tensor:
        return shards.total(share)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0], None


def total_over(share: Tensor, shards: LabelShards) -> Tensor:
    """The loss of all ranks, from this one's share."""
    result: Tensor = _Total.apply(share, shards)
    return result
