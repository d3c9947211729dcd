"""The corner cases of docs/numerics.md as rows of three labels, and every loss's value and gradient for each.

Values are closed forms, written by hand in Python floats; none comes from a backend. A row has one gradient for each
of its labels. A value or gradient of NaN, infinity or 0 is meant exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mlloss_cuda import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    DecoupledSoftmaxLoss,
    DiceLoss,
    JaccardLoss,
    LSEPLoss,
    MarginBCELoss,
    MultiPositiveCrossEntropyLoss,
    SigmoidFocalLoss,
    SquaredHingeLoss,
    TverskyLoss,
    ZLPRLoss,
)

__all__ = ["LIMITS", "SITUATIONS", "WRONG", "Limits", "Row"]

INF, NAN = math.inf, math.nan
WRONG = -7.0  # a target that is neither in [0, 1] nor the ignore_index


class Row(NamedTuple):
    """Logits and targets of one situation."""

    logits: tuple[float, float, float]
    targets: tuple[float, float, float]


class Expected(NamedTuple):
    """The loss of a row, or of each of its elements, and the gradient."""

    value: Any
    gradient: tuple[float, float, float]


SITUATIONS: dict[str, Row] = {
    "finite": Row((1.0, -0.5, 2.0), (1, 0, 0)),
    "a negative at -inf": Row((-INF, 1.0, -0.5), (0, 1, 0)),
    "a positive at inf": Row((INF, 1.0, -0.5), (1, 1, 0)),
    "a negative at inf": Row((INF, 1.0, -0.5), (0, 1, 0)),
    "a positive at -inf": Row((-INF, 1.0, -0.5), (1, 1, 0)),
    "two negatives at inf": Row((INF, INF, 1.0), (0, 0, 1)),
    "both sides wrong": Row((INF, -INF, 1.0), (0, 1, 0)),
    "both sides at inf": Row((INF, INF, -0.5), (1, 0, 0)),
    "everything at -inf": Row((-INF, -INF, -INF), (1, 0, 0)),
    "only negatives, at -inf": Row((-INF, -INF, -INF), (0, 0, 0)),
    "only positives, at inf": Row((INF, INF, INF), (1, 1, 1)),
    "only negatives": Row((1.0, -0.5, 2.0), (0, 0, 0)),
    "only positives": Row((1.0, -0.5, 2.0), (1, 1, 1)),
    "a NaN logit of a negative": Row((NAN, 1.0, -0.5), (0, 1, 0)),
    "a NaN logit of a positive": Row((1.0, NAN, -0.5), (1, 1, 0)),
    "a wrong target": Row((1.0, -0.5, 2.0), (1, WRONG, 0)),
    "probabilities at infinities": Row((INF, -INF, 0.5), (0.25, 0.75, 0)),
}


class Limits(NamedTuple):
    """A loss, and its expected results for every situation."""

    loss: Any  # a module with reduction="none"
    rows: dict[str, Expected]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


E = math.exp
ZEROS = (0.0, 0.0, 0.0)
NANS = (NAN, NAN, NAN)
NO_ROW_LOSS, ALL_NAN = Expected(0.0, ZEROS), Expected(NAN, NANS)
# A NaN in a row makes the whole row NaN.
NAN_ROWS = {"a NaN logit of a negative": ALL_NAN, "a NaN logit of a positive": ALL_NAN, "a wrong target": ALL_NAN}

# ---- losses of rows ----------------------------------------------------------------------------------------

# Sums of e^s for "finite": over its negatives, and 1 + over all labels.
N, NS = E(-0.5) + E(2.0), 1 + E(1.0) + E(-0.5) + E(2.0)

ZLPR = {
    "finite": Expected(softplus(-1.0) + math.log1p(N), (-sigmoid(-1.0), E(-0.5) / (1 + N), E(2.0) / (1 + N))),
    "a negative at -inf": Expected(softplus(-1.0) + softplus(-0.5), (0.0, -sigmoid(-1.0), sigmoid(-0.5))),
    "a positive at inf": Expected(softplus(-1.0) + softplus(-0.5), (0.0, -sigmoid(-1.0), sigmoid(-0.5))),
    "a negative at inf": Expected(INF, (1.0, -sigmoid(-1.0), 0.0)),
    "a positive at -inf": Expected(INF, (-1.0, 0.0, sigmoid(-0.5))),
    "two negatives at inf": Expected(INF, (0.5, 0.5, -sigmoid(-1.0))),
    "both sides wrong": Expected(INF, (1.0, -1.0, 0.0)),
    "both sides at inf": Expected(INF, (0.0, 1.0, 0.0)),
    "everything at -inf": Expected(INF, (-1.0, 0.0, 0.0)),
    "only negatives, at -inf": NO_ROW_LOSS,
    "only positives, at inf": NO_ROW_LOSS,
    "only negatives": Expected(math.log(NS), (E(1.0) / NS, E(-0.5) / NS, E(2.0) / NS)),
    "only positives": Expected(
        math.log1p(E(-1.0) + E(0.5) + E(-2.0)),
        tuple(-E(-s) / (1 + E(-1.0) + E(0.5) + E(-2.0)) for s in (1.0, -0.5, 2.0)),  # type: ignore[arg-type]
    ),
    "probabilities at infinities": Expected(INF, (1.0, -1.0, 0.0)),
    **NAN_ROWS,
}

PAIRS = N * E(-1.0)  # the sum over pairs of "finite"
LSEP = {
    "finite": Expected(
        math.log1p(PAIRS),
        (-PAIRS / (1 + PAIRS), E(-1.5) / (1 + PAIRS), E(1.0) / (1 + PAIRS)),
    ),
    "a negative at -inf": Expected(softplus(-1.5), (0.0, -sigmoid(-1.5), sigmoid(-1.5))),
    "a positive at inf": Expected(softplus(-1.5), (0.0, -sigmoid(-1.5), sigmoid(-1.5))),
    "a negative at inf": Expected(INF, (1.0, -1.0, 0.0)),
    "a positive at -inf": Expected(INF, (-1.0, 0.0, 1.0)),
    "two negatives at inf": Expected(INF, (0.5, 0.5, -1.0)),
    "both sides wrong": Expected(INF, (1.0, -1.0, 0.0)),
    # Equal infinities differ by 0.
    "both sides at inf": Expected(math.log(2), (-0.5, 0.5, 0.0)),
    "everything at -inf": Expected(math.log(3), (-2 / 3, 1 / 3, 1 / 3)),
    "only negatives, at -inf": NO_ROW_LOSS,
    "only positives, at inf": NO_ROW_LOSS,
    "only negatives": NO_ROW_LOSS,
    "only positives": NO_ROW_LOSS,
    "probabilities at infinities": Expected(INF, (1.0, -1.0, 0.0)),
    **NAN_ROWS,
}

Z = E(1.0) + E(-0.5) + E(2.0)
CROSS_ENTROPY = {
    "finite": Expected(math.log(Z) - 1.0, (E(1.0) / Z - 1, E(-0.5) / Z, E(2.0) / Z)),
    "a negative at -inf": Expected(softplus(-1.5), (0.0, -sigmoid(-1.5), sigmoid(-1.5))),
    # The infinite logit leaves the other positive a probability of 0.
    "a positive at inf": Expected(INF, (1.0, -1.0, 0.0)),
    "a negative at inf": Expected(INF, (1.0, -1.0, 0.0)),
    "a positive at -inf": Expected(INF, (-1.0, 2 * sigmoid(1.5) - 1, 2 * sigmoid(-1.5))),
    "two negatives at inf": Expected(INF, (0.5, 0.5, -1.0)),
    "both sides wrong": Expected(INF, (1.0, -1.0, 0.0)),
    "both sides at inf": Expected(math.log(2), (-0.5, 0.5, 0.0)),
    "everything at -inf": Expected(math.log(3), (-2 / 3, 1 / 3, 1 / 3)),
    "only negatives, at -inf": NO_ROW_LOSS,
    "only positives, at inf": Expected(3 * math.log(3), ZEROS),
    "only negatives": NO_ROW_LOSS,
    "only positives": Expected(3 * math.log(Z) - 2.5, (3 * E(1.0) / Z - 1, 3 * E(-0.5) / Z - 1, 3 * E(2.0) / Z - 1)),
    "probabilities at infinities": Expected(INF, (0.75, -0.75, 0.0)),
    **NAN_ROWS,
}

SHARE = sigmoid(math.log(N) - 1.0)
DECOUPLED = {
    "finite": Expected(math.log1p(PAIRS), (-SHARE, SHARE * E(-0.5) / N, SHARE * E(2.0) / N)),
    "a negative at -inf": Expected(softplus(-1.5), (0.0, -sigmoid(-1.5), sigmoid(-1.5))),
    "a positive at inf": Expected(softplus(-1.5) / 2, (0.0, -sigmoid(-1.5) / 2, sigmoid(-1.5) / 2)),
    "a negative at inf": Expected(INF, (1.0, -1.0, 0.0)),
    "a positive at -inf": Expected(INF, (-0.5, -sigmoid(-1.5) / 2, (1 + sigmoid(-1.5)) / 2)),
    "two negatives at inf": Expected(INF, (0.5, 0.5, -1.0)),
    "both sides wrong": Expected(INF, (1.0, -1.0, 0.0)),
    "both sides at inf": Expected(math.log(2), (-0.5, 0.5, 0.0)),
    # Negatives at -inf do not compete.
    "everything at -inf": NO_ROW_LOSS,
    "only negatives, at -inf": NO_ROW_LOSS,
    "only positives, at inf": NO_ROW_LOSS,
    "only negatives": NO_ROW_LOSS,
    "only positives": NO_ROW_LOSS,
    # 1/4 softplus(log(3/4)) + 3/4 inf
    "probabilities at infinities": Expected(INF, (0.75, -0.75, 0.0)),
    **NAN_ROWS,
}


def overlap(
    row: Row, alpha: float, beta: float, smooth: float, gamma: float = 1.0, log: bool = False, focus: float = 0.0
) -> Expected:
    """Return Tversky's loss: (1 - score)^gamma or -log(score), score = (I + c) / (I + alpha FP + beta FN + c).

    FP = P - I and FN = Y - I, with (1 - p)^focus p instead of p.
    """
    if any(math.isnan(s) for s in row.logits) or WRONG in row.targets:
        return ALL_NAN
    plain = [0.0 if s == -INF else sigmoid(s) for s in row.logits]
    p = [(1 - a) ** focus * a for a in plain]
    steepness = [a * (1 - b - focus * b) for a, b in zip(p, plain, strict=True)]
    inside = sum(a * b for a, b in zip(p, row.targets, strict=True))
    wrong, missed = sum(p) - inside, sum(row.targets) - inside
    numerator, denominator = inside + smooth, inside + alpha * wrong + beta * missed + smooth
    if denominator == 0:
        return NO_ROW_LOSS
    score = numerator / denominator
    lost = (alpha * wrong + beta * missed) / denominator
    gradient = []
    for steep, y in zip(steepness, row.targets, strict=True):
        below = y + alpha * (1 - y) - beta * y
        if log and score == 0:
            slope = below / denominator  # the gradient of log(0) in the numerator is left out
        elif log:
            slope = below / denominator - y / numerator
        else:
            slope = (score * below - y) / denominator
            slope *= 1.0 if gamma == 1 else gamma * lost ** (gamma - 1) if lost > 0 else 0.0
        gradient.append(steep * slope)
    value = -math.log(score) if log and score > 0 else INF if log else lost**gamma
    return Expected(value, tuple(gradient))  # type: ignore[arg-type]


# ---- losses of elements --------------------------------------------------------------------------------------

Element = tuple[float, float]  # value and slope


class Elements(NamedTuple):
    """The loss of a label: formulas for finite logits, and its results at the four infinite corners."""

    positive: Callable[[float], Element]
    negative: Callable[[float], Element]
    positive_at_inf: Element
    positive_at_minus_inf: Element
    negative_at_inf: Element
    negative_at_minus_inf: Element
    # Results for targets 1/4 at inf and 3/4 at -inf, if they are not the expectation over both labels.
    quarter_at_inf: Element | None = None
    three_quarters_at_minus_inf: Element | None = None

    def of(self, s: float, y: float) -> Element:
        """Return the value and slope of one element."""
        if math.isnan(s) or y == WRONG:
            return NAN, NAN
        if 0 < y < 1:
            own = {INF: self.quarter_at_inf, -INF: self.three_quarters_at_minus_inf}[s]
            return own or mixed(y, self.of(s, 1), self.of(s, 0))
        if s == INF:
            return self.positive_at_inf if y else self.negative_at_inf
        if s == -INF:
            return self.positive_at_minus_inf if y else self.negative_at_minus_inf
        return self.positive(s) if y else self.negative(s)

    def row(self, row: Row) -> Expected:
        """Return the values and slopes of a row's elements."""
        values, slopes = zip(*map(self.of, row.logits, row.targets), strict=True)
        return Expected(values, slopes)


def mixed(y: float, positive: Element, negative: Element) -> Element:
    return y * positive[0] + (1 - y) * negative[0], y * positive[1] + (1 - y) * negative[1]


NO_LOSS, INF_RISING, INF_FALLING = (0.0, 0.0), (INF, 1.0), (INF, -1.0)

BCE = Elements(
    lambda s: (softplus(-s), -sigmoid(-s)),
    lambda s: (softplus(s), sigmoid(s)),
    NO_LOSS,
    INF_FALLING,
    INF_RISING,
    NO_LOSS,
)
BCE_OF_2 = Elements(
    lambda s: (2 * softplus(-s), -2 * sigmoid(-s)), BCE.negative, NO_LOSS, (INF, -2.0), INF_RISING, NO_LOSS
)
# A positive of weight 0 has a loss of 0.
BCE_OF_0 = Elements(lambda s: NO_LOSS, BCE.negative, NO_LOSS, NO_LOSS, INF_RISING, NO_LOSS)
# q^2 softplus with 1/4 and 3/4; at 1/4 the weight is 5/8, at 3/4 it is 3/8, and 1 - p_t is 3/4.
FOCAL = Elements(
    lambda s: (
        0.25 * sigmoid(-s) ** 2 * softplus(-s),
        -0.25 * sigmoid(-s) ** 2 * (2 * sigmoid(s) * softplus(-s) + sigmoid(-s)),
    ),
    lambda s: (
        0.75 * sigmoid(s) ** 2 * softplus(s),
        0.75 * sigmoid(s) ** 2 * (2 * sigmoid(-s) * softplus(s) + sigmoid(s)),
    ),
    NO_LOSS,
    (INF, -0.25),
    (INF, 0.75),
    NO_LOSS,
    (INF, 5 / 8 * 0.75**2 * 0.75),
    (INF, -3 / 8 * 0.75**2 * 0.75),
)
FOCAL_OF_POSITIVES = Elements(
    BCE.positive, lambda s: NO_LOSS, NO_LOSS, INF_FALLING, NO_LOSS, NO_LOSS, (INF, 0.25 * 0.75), (INF, -0.75 * 0.75)
)
ASYMMETRIC = Elements(
    lambda s: (
        sigmoid(-s) ** 0.5 * softplus(-s),
        -(sigmoid(-s) ** 0.5) * (0.5 * sigmoid(s) * softplus(-s) + sigmoid(-s)),
    ),
    lambda s: (sigmoid(s) ** 2 * softplus(s), sigmoid(s) ** 2 * (2 * sigmoid(-s) * softplus(s) + sigmoid(s))),
    NO_LOSS,
    INF_FALLING,
    INF_RISING,
    NO_LOSS,
)


def clipped(s: float) -> Element:
    """Return the value and slope of u^4 (-log(1 - u)) with u = p - 0.05."""
    u = sigmoid(s) - 0.05
    slope = 4 * u**3 * -math.log(1 - u) + u**4 / (1 - u)
    return u**4 * -math.log(1 - u), sigmoid(s) * sigmoid(-s) * slope


CLIPPED = Elements(
    lambda s: (
        sigmoid(-s) * softplus(-s),
        -sigmoid(-s) * (sigmoid(s) * softplus(-s) + sigmoid(-s)),
    ),
    clipped,
    NO_LOSS,
    INF_FALLING,
    (0.95**4 * -math.log(0.05), 0.0),
    NO_LOSS,
)
MARGIN = Elements(
    lambda s: NO_LOSS if s > math.log(4) else BCE.positive(s),
    lambda s: NO_LOSS if -s > math.log(4) else BCE.negative(s),
    NO_LOSS,
    INF_FALLING,
    INF_RISING,
    NO_LOSS,
)
HINGE = Elements(
    lambda s: (max(0.0, 1 - s) ** 2, -2 * max(0.0, 1 - s)),
    lambda s: (max(0.0, 1 + s) ** 2, 2 * max(0.0, 1 + s)),
    NO_LOSS,
    (INF, -INF),
    (INF, INF),
    NO_LOSS,
)


# ---- all of them ---------------------------------------------------------------------------------------------


def element_wise(loss: Any, elements: Elements) -> Limits:
    return Limits(loss, {name: elements.row(row) for name, row in SITUATIONS.items()})


def overlapping(loss: Any, *numbers: float, **other: Any) -> Limits:
    return Limits(loss, {name: overlap(row, *numbers, **other) for name, row in SITUATIONS.items()})


def _limits() -> dict[str, Limits]:
    none: Any = {"reduction": "none"}
    return {
        "zlpr": Limits(ZLPRLoss(**none), ZLPR),
        "lsep": Limits(LSEPLoss(**none), LSEP),
        "multi_positive_cross_entropy": Limits(MultiPositiveCrossEntropyLoss(**none), CROSS_ENTROPY),
        "decoupled_softmax": Limits(DecoupledSoftmaxLoss(**none), DECOUPLED),
        "dice": overlapping(DiceLoss(**none), 0.5, 0.5, 0.5),  # its smoothing is added to twice the overlap
        "dice, unsmoothed": overlapping(DiceLoss(smooth=0.0, **none), 0.5, 0.5, 0.0),
        "log dice": overlapping(DiceLoss(smooth=0.0, log=True, **none), 0.5, 0.5, 0.0, log=True),
        "self-adjusting dice": overlapping(DiceLoss(self_adjusting_alpha=1.0, **none), 0.5, 0.5, 0.5, focus=1.0),
        "tversky": overlapping(TverskyLoss(alpha=0.3, beta=0.7, gamma=0.75, **none), 0.3, 0.7, 1.0, gamma=0.75),
        "jaccard": overlapping(JaccardLoss(smooth=0.0, **none), 1.0, 1.0, 0.0),
        "bce": element_wise(BCEWithLogitsLoss(**none), BCE),
        "bce, pos_weight=2": element_wise(BCEWithLogitsLoss(pos_weight=2.0, **none), BCE_OF_2),
        "bce, pos_weight=0": element_wise(BCEWithLogitsLoss(pos_weight=0.0, **none), BCE_OF_0),
        "focal": element_wise(SigmoidFocalLoss(**none), FOCAL),
        "focal of positives": element_wise(SigmoidFocalLoss(alpha=1.0, gamma=0.0, **none), FOCAL_OF_POSITIVES),
        "asymmetric": element_wise(AsymmetricLoss(gamma_neg=2.0, gamma_pos=0.5, clip=0.0, **none), ASYMMETRIC),
        "clipped asymmetric": element_wise(AsymmetricLoss(**none), CLIPPED),
        "margin_bce": element_wise(MarginBCELoss(**none), MARGIN),
        "squared_hinge": element_wise(SquaredHingeLoss(**none), HINGE),
    }


LIMITS = _limits()
