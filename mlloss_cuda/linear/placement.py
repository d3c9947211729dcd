"""Where the head's labels lie: here, or on the ranks of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..sharding.shards import LabelShards, group_of_mesh, is_dtensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Placement", "as_dtensor", "distributed_parameter", "generator_of", "local_of", "place"]


class Placement(NamedTuple):
    """Which labels are whose; the mesh that parameters are DTensors of, if they are."""

    shards: LabelShards | None = None
    mesh: DeviceMesh | None = None


def place(process_group: Any, num_labels: int, local_labels: Any, fused_update: bool) -> Placement:
    """From what a user says of it. Asks the other ranks where ``local_labels`` is given."""
    if process_group is None:
        if local_labels is not None:
            raise ValueError(f"local_labels: expected None without a process_group, got {local_labels!r}")
        return Placement()
    if hasattr(process_group, "mesh_dim_names"):
        return _on_mesh(process_group, num_labels, local_labels, fused_update)
    from ..sharding import check_group

    group = check_group("process_group", process_group)
    if local_labels is None:
        return Placement(LabelShards.chunked(group, num_labels))
    from torch import distributed

    device = torch.device("cuda" if distributed.get_backend(group) == "nccl" else "cpu")
    whole = isinstance(local_labels, int) and not isinstance(local_labels, bool)
    shards = LabelShards.gathered("local_labels", group, max(local_labels, -1) if whole else -1, device)
    if not whole:
        raise TypeError(f"local_labels: expected an int or None, got {local_labels!r}")
    if local_labels < 0:
        raise ValueError(f"local_labels: expected >= 0, got {local_labels}")
    if shards.labels != num_labels:
        raise ValueError(f"local_labels: expected {num_labels} on all ranks together, got {shards.sizes}")
    return Placement(shards)


def _on_mesh(mesh: DeviceMesh, num_labels: int, local_labels: Any, fused_update: bool) -> Placement:
    if mesh.ndim != 1:
        raise ValueError(
            f"process_group: expected a mesh of one dimension, got {mesh.ndim}; name one of them, mesh['labels'] say"
        )
    if local_labels is not None:
        raise ValueError("local_labels: expected None with a mesh, whose DTensors have chunks of their own")
    if fused_update:
        raise ValueError("fused_update: expected a process group with it, got a mesh; mesh.get_group() is one")
    return Placement(LabelShards.chunked(group_of_mesh("process_group", mesh), num_labels), mesh)


def distributed_parameter(parameter: nn.Parameter, mesh: DeviceMesh, labels: int) -> nn.Parameter:
    """A rank's rows of a parameter as a DTensor of all labels."""
    return nn.Parameter(as_dtensor(parameter.detach(), mesh, labels))


def as_dtensor(local: Tensor, mesh: DeviceMesh, labels: int) -> Tensor:
    """A rank's rows as a DTensor of all labels, which shares their memory."""
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((labels, *local.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def local_of(tensor: Any) -> Tensor:
    """What is here of it."""
    local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def generator_of(rank: int, device: torch.device) -> torch.Generator:
    """Of a rank's own random numbers, that follow from torch's default generator."""
    seed = int(torch.randint(2**31 - 1, ()))
    return torch.Generator(device).manual_seed((seed + 0x9E3779B1 * rank) & (2**32 - 1))
