"""The head's state for ``torch.distributed.checkpoint``, as tensors of all labels over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..sharding.shards import LabelShards, chunk_sizes, is_dtensor
from .placement import as_dtensor, local_of
from .updates import FusedUpdate

__all__ = ["HeadState"]


class Checkpointed(Protocol):
    """The members of ``LinearLoss`` that a checkpoint reads."""

    loss: Any  # a LossModule
    shards: LabelShards | None
    fused_update: FusedUpdate | None

    def named_parameters(self, *, recurse: bool) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over weight and bias."""


class HeadState:
    """A ``Stateful`` of ``torch.distributed.checkpoint``; see ``LinearLoss.checkpoint``."""

    def __init__(self, head: Checkpointed) -> None:
        shards = head.shards
        if shards is not None and shards.sizes != chunk_sizes(shards.labels, shards.ranks):
            raise ValueError(
                f"local_labels: expected the sizes of torch.chunk for a checkpoint of all ranks, got {shards.sizes}"
            )
        self._head = head

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and moments as DTensors that share their memory, numbers, and the loss's state."""
        head, update = self._head, self._head.fused_update
        state: dict[str, Any] = {name: self._of_all(tensor) for name, tensor in self._tensors()}
        state["loss"] = head.loss.state_dict()
        if update is not None:
            state["options"] = {name: value for name, value in update.param_groups[0].items() if name != "params"}
            state["steps"] = {name: update.state[parameter].get("step", 0) for name, parameter in self._parameters()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; copying a tensor that was loaded in place has no effect."""
        head, update = self._head, self._head.fused_update
        if update is not None:
            self._load_options(update, state["options"])
        for name, tensor in self._tensors():
            local_of(tensor).copy_(local_of(state[name]))
        head.loss.load_state_dict(state["loss"])
        if update is not None:
            for name, parameter in self._parameters():
                update.state[parameter]["step"] = state["steps"][name]

    def _load_options(self, update: FusedUpdate, options: dict[str, Any]) -> None:
        """Load the options, which must call for the moments that the checkpoint was read into."""
        group = update.param_groups[0]
        former, before = dict(group), self._state_names(update)
        group.update(options)
        if self._state_names(update) != before:
            group.update(former)
            differing = {name: value for name, value in options.items() if former.get(name) != value}
            raise ValueError(
                f"fused_update: expected the options of the checkpoint, whose state has other moments: {differing}"
            )

    def _state_names(self, update: FusedUpdate) -> list[tuple[str, ...]]:
        return [update.state_names(parameter) for _, parameter in self._parameters()]

    def _parameters(self) -> list[tuple[str, Tensor]]:
        return list(self._head.named_parameters(recurse=False))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        update = self._head.fused_update
        for name, parameter in self._parameters():
            yield name, parameter.detach()
            for moment in () if update is None else update.state_names(parameter):
                yield f"{name}.{moment}", update.state_tensor(moment, parameter)  # type: ignore[union-attr]

    def _of_all(self, tensor: Tensor) -> Tensor:
        shards = self._head.shards
        if shards is None or is_dtensor(tensor):
            return tensor
        from torch.distributed.device_mesh import DeviceMesh

        mesh = DeviceMesh.from_group(shards.group, tensor.device.type)
        return as_dtensor(tensor, mesh, shards.labels)
