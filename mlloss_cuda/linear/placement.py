"""The placement of the head's labels: on this process alone, or over the ranks of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..sharding.shards import LabelShards, group_of_mesh, is_dtensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Placement", "as_dtensor", "common_number", "distributed_parameter", "generator_of", "local_of", "place"]


class Placement(NamedTuple):
    """The ranks' shares of the labels, and the mesh if parameters are DTensors."""

    shards: LabelShards | None = None
    mesh: DeviceMesh | None = None


def place(process_group: Any, num_labels: int, local_labels: Any, fused_update: bool) -> Placement:
    """Return the placement for the user's arguments; ``local_labels`` is exchanged between ranks."""
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
    device = _device_of(group)
    whole = isinstance(local_labels, int) and not isinstance(local_labels, bool)
    shards = LabelShards.gathered("local_labels", group, max(local_labels, -1) if whole else -1, device)
    if not whole:
        raise TypeError(f"local_labels: expected an int or None, got {local_labels!r}")
    if local_labels < 0:
        raise ValueError(f"local_labels: expected >= 0, got {local_labels}")
    if shards.labels != num_labels:
        raise ValueError(f"local_labels: expected {num_labels} on all ranks together, got {shards.sizes}")
    return Placement(shards)


def _device_of(group: ProcessGroup) -> torch.device:
    """Return a device whose tensors the group sends."""
    from torch import distributed

    return torch.device("cuda" if distributed.get_backend(group) == "nccl" else "cpu")


def common_number(number: int, shards: LabelShards) -> int:
    """Return the number of the first rank, on every rank."""
    if shards.ranks == 1:
        return number
    return int(shards.gather(torch.tensor([number], device=_device_of(shards.group)))[0])


def _on_mesh(mesh: DeviceMesh, num_labels: int, local_labels: Any, fused_update: bool) -> Placement:
    if mesh.ndim != 1:
        raise ValueError(
            f"process_group: expected a mesh of one dimension, got {mesh.ndim}; select one, for example mesh['labels']"
        )
    if local_labels is not None:
        raise ValueError("local_labels: expected None with a mesh, whose DTensors determine the split")
    if fused_update:
        raise ValueError("fused_update: expected a process group with it, got a mesh; pass mesh.get_group()")
    return Placement(LabelShards.chunked(group_of_mesh("process_group", mesh), num_labels), mesh)


def distributed_parameter(parameter: nn.Parameter, mesh: DeviceMesh, labels: int) -> nn.Parameter:
    """Return a rank's rows of a parameter as a DTensor parameter of all labels."""
    return nn.Parameter(as_dtensor(parameter.detach(), mesh, labels))


def as_dtensor(local: Tensor, mesh: DeviceMesh, labels: int) -> Tensor:
    """Return a rank's rows as a DTensor of all labels that shares their memory."""
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((labels, *local.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def local_of(tensor: Any) -> Tensor:
    """Return the local tensor of a DTensor, and other tensors unchanged."""
    local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def generator_of(rank: int, device: torch.device) -> torch.Generator:
    """Return a generator of the rank's own random numbers, seeded from torch's default generator."""
    seed = int(torch.randint(2**31 - 1, ()))
    return torch.Generator(device).manual_seed((seed + 0x9E3779B1 * rank) & (2**32 - 1))
