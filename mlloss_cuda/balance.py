"""Label weights and biases from label frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _counts
from . import _validation as check
from .targets import CSRTargets

__all__ = ["label_weights", "prior_bias"]

METHODS = ("inverse", "effective", "propensity")


def label_weights(
    targets: Tensor | CSRTargets,
    method: str = "effective",
    *,
    beta: float = 0.999,
    a: float = 0.55,
    b: float = 1.5,
    normalize: bool = True,
    ignore_index: float | None = None,
) -> Tensor:
    r"""Compute a weight for each label, larger for rarer ones, for the ``weight`` of any loss.

    .. math:: \text{inverse: } \frac1n, \qquad \text{effective: } \frac{1 - \beta}{1 - \beta^n}, \qquad
        \text{propensity: } 1 + C e^{-a \log (n + b)}, \quad C = (\log N - 1)(b + 1)^a

    for a label with n positives in N rows. ``"effective"`` lies between 1 (beta = 0) and inverse frequency
    (beta to 1). ``"propensity"`` is for data in which rarer labels are missing more often: it is the inverse of the
    probability that a true label was recorded.

    Args:
        targets: the targets of the training data: dense ``[..., L]`` (read chunk by chunk), ``CSRTargets`` or
            ``torch.sparse_csr``. Probabilities add up to n.
        method: ``"inverse"``, ``"effective"`` (default) or ``"propensity"``.
        beta: in [0, 1), for ``"effective"``; 0.9 to 0.9999 in the paper. Default 0.999.
        a, b: > 0, for ``"propensity"``. Defaults 0.55 and 1.5, the paper's values for most data sets (Wikipedia 0.5
            and 0.4, Amazon 0.6 and 2.6).
        normalize: divide by the weights' mean, so that the mean over all L labels is 1 and the loss keeps its
            magnitude. False gives the values of the formulas. Default True.
        ignore_index: dense targets equal to it are unknown and not counted. Default None.

    Returns:
        float32 ``[L]`` on the targets' device, positive and finite. A label without positives is weighted
        as if it had one; in ``"propensity"``, which is finite at 0, it is not.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or a target is negative and not ``ignore_index``.

    Source:
        Effective number: Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of
        Samples", 2019, arXiv:1901.05555. Propensity: Jain, Prabhu, Varma, "Extreme Multi-label Loss Functions
        for Recommendation, Tagging, Ranking & Other Missing Label Applications", 2016. For fewer than 3 rows, C would
        be negative and is set to 0.

    Example:
        >>> targets = CSRTargets.from_lists([[0], [0, 1], [0]], num_labels=3)
        >>> label_weights(targets, "inverse")
        tensor([0.4286, 1.2857, 1.2857])
    """
    targets = _counts.check_alone(targets)
    check.check_choice("method", method, METHODS)
    beta = check.check_number("beta", beta, 0.0, 1.0, open_high=True)
    a = check.check_number("a", a, 0.0, open_low=True)
    b = check.check_number("b", b, 0.0, open_low=True)
    check.check_bool("normalize", normalize)
    count, _ = _counts.count_labels(targets, check.check_ignore_index(ignore_index))
    if method == "propensity":
        c = max(math.log(len(targets)) - 1, 0.0) * (b + 1) ** a if len(targets) else 0.0
        weights = 1 + c * (count + b) ** -a
    elif method == "effective" and beta > 0:
        weights = (1 - beta) / -torch.expm1(count.clamp(min=1) * math.log(beta))
    else:
        weights = 1 / count.clamp(min=1) if method == "inverse" else torch.ones_like(count)
    if normalize:
        weights = weights / weights.mean()
    return weights.float()


def prior_bias(targets: Tensor | CSRTargets, *, smoothing: float = 0.5, ignore_index: float | None = None) -> Tensor:
    r"""Compute the prior log-odds of each label, for the last layer's bias or for ``logit_bias``.

    .. math:: \log \frac{n + c}{N - n + c}

    for a label that is positive in n of the N rows where it is known. A classifier that starts with this bias does
    not spend its first steps, nor its first large gradients, on learning that most labels are rare. As a fixed
    ``logit_bias`` it is logit adjustment: the model learns what a row adds to the prior. ``loss.predict`` adds
    the prior again; ``logits > 0`` leaves it out, and finds more of the rare labels.

    The log-odds are the optimum of BCE for constant logits. For ZLPR start with ``-log L`` for every label: the sum
    of ``e^s`` over a row's negatives is then near 1, the constant beside it.

    Args:
        targets: as for :func:`label_weights`.
        smoothing: c > 0, added to both counts, so that labels that never or always occur have a finite bias.
            Default 0.5.
        ignore_index: dense targets equal to it are unknown, and their rows do not count. Default None.

    Returns:
        float32 ``[L]`` on the targets' device, finite.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or a target is negative and not ``ignore_index``.

    Source:
        Initial bias: Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002, section 3.3.
        Logit adjustment: Menon et al., "Long-tail learning via logit adjustment", 2021, arXiv:2007.07314.

    Example:
        >>> prior_bias(torch.tensor([[1, 0], [1, 0], [0, 0]]))
        tensor([ 0.5108, -1.9459])
    """
    targets = _counts.check_alone(targets)
    c = check.check_number("smoothing", smoothing, 0.0, open_low=True)
    count, known = _counts.count_labels(targets, check.check_ignore_index(ignore_index))
    return torch.log((count + c) / (known - count + c)).float()
