"""Losses of labels that are sharded over the ranks of an existing ``torch.distributed`` process group."""

from . import evaluation as evaluation
from .module import ShardedLoss, check_group, shard_labels

__all__ = ["ShardedLoss", "check_group", "shard_labels"]
