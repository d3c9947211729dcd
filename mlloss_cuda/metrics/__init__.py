"""Metrics of multi-label predictions, from indices and sparse targets. Not imported by ``import mlloss_cuda``."""

from .dense import average_precision, ranking_loss
from .ranking import (
    PROPENSITY,
    ndcg_at_k,
    precision_at_k,
    propensity_scored_ndcg_at_k,
    propensity_scored_precision_at_k,
)
from .sets import f1_score, subset_accuracy

__all__ = [
    "PROPENSITY",
    "average_precision",
    "f1_score",
    "ndcg_at_k",
    "precision_at_k",
    "propensity_scored_ndcg_at_k",
    "propensity_scored_precision_at_k",
    "ranking_loss",
    "subset_accuracy",
]
