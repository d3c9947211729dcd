"""Labels that lie on several ranks: their slices, the communication between ranks, and errors on all ranks at once.

This is the only code that communicates. Each message has the same size on every rank, however many labels the rank
has. Gathered values are added in the order of the ranks, so all ranks get the same result to the bit.
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
    """Return the sizes of ``torch.chunk`` and DTensor: equal on the first ranks; the last may have fewer, or none."""
    size = -(-labels // ranks)
    return tuple(max(0, min(size, labels - rank * size)) for rank in range(ranks))


@dataclass(frozen=True, eq=False)
class LabelShards:
    """The slices of labels on the ranks of a group, in the order of the ranks."""

    group: ProcessGroup
    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def chunked(cls, group: ProcessGroup, labels: int) -> LabelShards:
        """Return the slices that torch's own chunks give, without communication."""
        return cls(group, chunk_sizes(labels, group.size()), group.rank())

    @classmethod
    def gathered(cls, name: str, group: ProcessGroup, own: int, device: torch.device) -> LabelShards:
        """Gather the sizes of all ranks' slices. A negative ``own`` means that this rank has failed."""
        sizes = _gather(torch.tensor([own], device=device), group).flatten().tolist()
        failed = [rank for rank, size in enumerate(sizes) if size < 0]
        if failed and own >= 0:
            raise ValueError(f"{name}: rank {failed[0]} failed its own check; the error there gives the reason")
        return cls(group, tuple(sizes), group.rank())

    def __deepcopy__(self, memo: dict[int, Any]) -> LabelShards:
        return self  # copies of a module share the process group

    @cached_property
    def labels(self) -> int:
        """The number of labels on all ranks."""
        return sum(self.sizes)

    @cached_property
    def own(self) -> slice:
        """The slice of all labels that this rank has."""
        first = sum(self.sizes[: self.rank])
        return slice(first, first + self.sizes[self.rank])

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return len(self.sizes)

    # ---- communication ----

    def gather(self, tensor: Tensor) -> Tensor:
        """Return ``[ranks, ...]``, from tensors of the same shape on all ranks."""
        return _gather(tensor, self.group)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, in their order, computed in float64."""
        return self.gather(tensor).sum(0, dtype=torch.float64).to(tensor.dtype)

    def begin_sum(self, tensor: Tensor) -> Work | None:
        """Start a sum over ranks in place; the result is there after ``wait`` on the work. None for one rank."""
        from torch import distributed

        return None if self.ranks == 1 else distributed.all_reduce(tensor, group=self.group, async_op=True)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over ranks in place, and wait for the result."""
        work = self.begin_sum(tensor)
        if work is not None:
            work.wait()
        return tensor

    # ---- agreement between ranks ----

    def agreed(self, make: Callable[[], T], describe: Callable[[T], str], device: torch.device) -> T:
        """Return ``make()``, after checking that every rank has made one with the same description.

        The comparison runs if it does not synchronise a GPU (CPU tensors), or if torch's distributed debug level is
        set; otherwise this returns immediately.
        """
        if self.ranks == 1 or not self._compares(device):
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
        """Raise the error, and send it to the other ranks, which wait in :meth:`agreed`."""
        if self.ranks > 1 and self._compares(device):
            self._compare(f"failed with {type(error).__name__}: {error}", device, error)
        raise error

    def _compares(self, device: torch.device) -> bool:
        from torch import distributed

        if device.type == "cpu":
            return True
        return bool(distributed.get_debug_level() != distributed.DebugLevel.OFF)  # type: ignore[attr-defined]

    def _compare(self, said: str, device: torch.device, failure: Exception | None) -> None:
        # A hash is compared first: the descriptions themselves are sent only if hashes differ.
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
    """Logits of which this rank has some columns. Losses receive them in place of a tensor.

    ``shape`` is the shape of all columns; only the rank's own are stored.
    """

    def __init__(self, local: Tensor, shards: LabelShards) -> None:
        self.local, self.shards = local, shards

    @property
    def shape(self) -> torch.Size:
        """The shape of the logits of all ranks together."""
        return torch.Size((*self.local.shape[:-1], self.shards.labels))

    @property
    def device(self) -> torch.device:
        """The device of this rank's logits."""
        return self.local.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the logits."""
        return self.local.dtype

    def total(self, share: Tensor) -> Tensor:
        """Return the sum of the ranks' shares; each share's gradient is that of the sum."""
        return total_over(share, self.shards)

    def stand_in(self, like: Tensor | None = None) -> Tensor:
        """Return an expanded scalar of their shape, for code that only reads shapes."""
        return (self.local if like is None else like).new_empty(()).expand(self.shape)


def is_dtensor(value: Any) -> bool:
    """Return whether ``value`` is a DTensor. There is no import: whoever has a DTensor has imported its module."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def as_sharded(logits: Any) -> ShardedLogits | None:
    """Return ``ShardedLogits``, also for a DTensor whose last dimension is sharded; None for anything else."""
    if isinstance(logits, ShardedLogits):
        return logits
    return ShardedLogits(*from_dtensor("logits", logits, logits.dim() - 1)) if is_dtensor(logits) else None


def group_of_mesh(name: str, mesh: Any, dim: int = 0) -> ProcessGroup:
    """Return the process group of a dimension of the mesh, and check that its ranks are in the mesh's order."""
    group: ProcessGroup = mesh.get_group(dim)
    if mesh.get_local_rank(dim) != group.rank():
        raise ValueError(f"{name}: expected a mesh with its ranks in ascending order, got {mesh}")
    return group


def from_dtensor(name: str, tensor: Any, dim: int) -> tuple[Tensor, LabelShards]:
    """Return this rank's part of a DTensor with its labels in ``dim``, and the slices of all ranks."""
    sharded = [i for i, own in enumerate(tensor.placements) if own.is_shard()]
    plain = all(own.is_replicate() or own.is_shard(dim) for own in tensor.placements)
    if not plain or len(sharded) != 1:
        raise ValueError(
            f"{name}: expected a DTensor with Shard({dim}), its labels, on one dimension of its mesh and Replicate() "
            f"on others, got {tuple(tensor.placements)}; redistribute it, or pass its to_local()"
        )
    group = group_of_mesh(name, tensor.device_mesh, sharded[0])
    shards = LabelShards.chunked(group, tensor.shape[dim])
    local: Tensor = tensor.to_local()
    if local.shape[dim] != shards.sizes[shards.rank]:
        raise ValueError(
            f"{name}: expected DTensor's own chunks, {shards.sizes} of {shards.labels} labels, got {local.shape[dim]} "
            f"on rank {shards.rank}; for slices of other sizes use a process group"
        )
    return local, shards


class _Replicated(torch.autograd.Function):
    """A tensor that is the same on every rank: its gradient is the sum of the ranks' gradients."""

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
    """Return ``tensor``, whose gradient becomes the sum of the ranks' gradients."""
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
    """Return the loss of all ranks, from this rank's share."""
    result: Tensor = _Total.apply(share, shards)
    return result
