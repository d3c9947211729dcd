"""Losses of labels that lie on several devices, on an existing process group of ``torch.distributed``."""

from . import evaluation as evaluation
from .module import ShardedLoss, check_group, shard_labels

__all__ = ["ShardedLoss", "check_group", "shard_labels"]
