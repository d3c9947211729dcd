"""Metrics of multi-label predictions, from indices and sparse targets; ``import mlloss_cuda`` does not import them."""

from .dense import average_precision, coverage_error, ranking_loss
from .propensity import (
    PROPENSITY,
    propensity_scored_ndcg_at_k,
    propensity_scored_precision_at_k,
    propensity_scored_recall_at_k,
)
from .ranking import ndcg_at_k, precision_at_k, recall_at_k
from .sets import f1_score, fbeta_score, hamming_loss, subset_accuracy

__all__ = [
    "PROPENSITY",
    "average_precision",
    "coverage_error",
    "f1_score",
    "fbeta_score",
    "hamming_loss",
    "ndcg_at_k",
    "precision_at_k",
    "propensity_scored_ndcg_at_k",
    "propensity_scored_precision_at_k",
    "propensity_scored_recall_at_k",
    "ranking_loss",
    "recall_at_k",
    "subset_accuracy",
]
