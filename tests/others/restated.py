"""Formulas of packages that are not installed, restated from their publications: pyxclib's metrics, and ASL.

kunaldahiya/pyxclib, ``xclib/evaluation/xc_metrics.py``, is on no package index and builds with Cython and Numba;
Alibaba-MIIL/ASL, ``src/loss_functions/losses.py`` (2021-08-06), is a repository without a package. Nothing is copied:
each function is the formula of the metric or the loss of that name, row by row in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["asymmetric", "ndcg", "precision", "psndcg", "psprecision", "psrecall", "recall"]

Ranking = list[list[int]]  # a row's labels, best first


def _sums(found: Ranking, targets: Tensor, weight: Tensor, k: int, discount: Callable[[int], float]) -> list[float]:
    """Return the gain of each row down to rank k."""
    rows = zip(found, targets, strict=True)
    return [sum(discount(i) * (y[label] * weight[label]).item() for i, label in enumerate(row[:k])) for row, y in rows]


def _best(targets: Tensor, weight: Tensor, k: int) -> Ranking:
    return [(y * weight).topk(min(k, len(y))).indices.tolist() for y in targets]


def _mean(values: list[float], divisors: list[float]) -> float:
    return sum(a / b for a, b in zip(values, divisors, strict=True)) / len(values)


def _flat(_: int) -> float:
    return 1.0


def _log(rank: int) -> float:
    return 1 / math.log2(rank + 2)


def _ideal(targets: Tensor, k: int) -> list[float]:
    """Return the gain of a row whose positives all come first, and 1 for a row without positives, whose gain is 0."""
    return [sum(_log(i) for i in range(min(k, int(y.sum())))) or 1.0 for y in targets]


def _positives(targets: Tensor) -> list[float]:
    return [max(int(y.sum()), 1) for y in targets]


def precision(found: Ranking, targets: Tensor, k: int) -> float:
    return _mean(_sums(found, targets, torch.ones(targets.shape[1]), k, _flat), [k] * len(found))


def recall(found: Ranking, targets: Tensor, k: int) -> float:
    return _mean(_sums(found, targets, torch.ones(targets.shape[1]), k, _flat), _positives(targets))


def ndcg(found: Ranking, targets: Tensor, k: int) -> float:
    return _mean(_sums(found, targets, torch.ones(targets.shape[1]), k, _log), _ideal(targets, k))


def psprecision(found: Ranking, targets: Tensor, weight: Tensor, k: int) -> float:
    best = _best(targets, weight, k)
    return sum(_sums(found, targets, weight, k, _flat)) / sum(_sums(best, targets, weight, k, _flat))


def psrecall(found: Ranking, targets: Tensor, weight: Tensor, k: int) -> float:
    best, n = _best(targets, weight, k), _positives(targets)
    return _mean(_sums(found, targets, weight, k, _flat), n) / _mean(_sums(best, targets, weight, k, _flat), n)


def psndcg(found: Ranking, targets: Tensor, weight: Tensor, k: int) -> float:
    """Numerator and denominator divide each row by the ideal gain of its number of positives."""
    best, ideal = _best(targets, weight, k), _ideal(targets, k)
    return _mean(_sums(found, targets, weight, k, _log), ideal) / _mean(_sums(best, targets, weight, k, _log), ideal)


def asymmetric(
    logits: Tensor, targets: Tensor, gamma_neg: float, gamma_pos: float, clip: float | None, eps: float, detach: bool
) -> Tensor:
    """Return ASL, summed over all elements: clamped logarithms of p and of the shifted 1 - p, times the focus."""
    p = logits.sigmoid()
    q = 1 - p if not clip else (1 - p + clip).clamp(max=1)
    cost = torch.where(targets > 0, p.clamp(min=eps).log(), q.clamp(min=eps).log())
    miss = torch.where(targets > 0, 1 - p, 1 - q)
    power = torch.where(targets > 0, gamma_pos, gamma_neg)
    focus = miss.detach() ** power if detach else miss**power
    return -(focus * cost).sum()
