"""The contract of the ops: their schemas, and fakes that return results of the right shape without running.

An op's own arguments come before the logits, because the shared ones, which come after them, end in optional ones.

Every engine implements the same ops under its own namespace or dispatch key. ``_autograd`` is the only caller
of the ops for whole calls. The logits are always 2-D here, and all checks are done.

The logits may belong to a part of the labels: the columns from ``first_label`` on, out of ``all_labels``. CSR
targets then hold the columns of all labels; dense targets, weights and other tensors with an entry per label
belong to the part. If no group spans parts (groups are elements or labels), ``loss_forward`` returns the part's
share of the total, and shares add up. If groups span parts (groups are rows, or the whole batch), each part has
``loss_statistics``; ``loss_finalize`` turns the statistics of all parts into the value and the coefficients, and
``loss_backward`` computes the part's gradient from these. Second-pass sums (``loss_second_pass``), if a loss has them,
need a second visit of each part, with the statistics from ``loss_merge``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

from ._call import SHARED_NAMES, shared_schema

__all__ = [
    "COMPOUND",
    "GROUPINGS",
    "IGNORE_NAN",
    "MACRO",
    "MICRO",
    "MOST_TERMS",
    "NAMESPACE",
    "NONE",
    "REDUCTIONS",
    "TERM_PARAMETERS",
    "Counts",
    "compute_dtype",
    "counts_of",
    "define",
]

NAMESPACE: Final = "mlloss_cuda"

# Positions in these tuples are the values of the C++ enums in csrc/core/params.h.
GROUPINGS: Final = ("element", "samples", "macro", "micro")
REDUCTIONS: Final = ("none", "sum", "mean", "batchmean")
MACRO: Final = GROUPINGS.index("macro")  # this grouping and later ones cross rows
MICRO: Final = GROUPINGS.index("micro")
NONE: Final = REDUCTIONS.index("none")

# This ignore_index stands for NaN in the engines, for floating targets whose unknown labels are NaN: no floating
# number equals it. csrc/core/params.h has the same value.
IGNORE_NAN: Final = 2**63 - 1

# A compound's name is the names of its terms, joined by COMPOUND. Each term has TERM_PARAMETERS parameters: the
# coefficient, the functor's own, then zeros. csrc/core/params.h has the same values.
COMPOUND: Final = "+"
TERM_PARAMETERS: Final = 8
MOST_TERMS: Final = 8

_SHARED = shared_schema()

_SCHEMAS = (
    # value, coefficients [C, groups] or empty, gradient or empty
    f"loss_forward(bool keep_coefficients, bool form_gradient, Tensor logits, {_SHARED}) -> (Tensor, Tensor, Tensor)",
    # The gradient replaces the logits.
    f"loss_forward_(bool keep_coefficients, Tensor(a!) logits, {_SHARED}) -> (Tensor, Tensor)",
    # gradient, then sums of d loss / d s: over labels, times x over labels, over rows; those not needed are empty
    "loss_backward(Tensor coefficients, Tensor grad_output, bool need_logits, bool need_row, bool need_scale, "
    f"bool need_label, Tensor logits, {_SHARED}) -> (Tensor, Tensor, Tensor, Tensor)",
    "loss_backward_(Tensor coefficients, Tensor grad_output, bool need_row, bool need_scale, bool need_label, "
    f"Tensor(a!) logits, {_SHARED}) -> (Tensor, Tensor, Tensor)",
    # A loss of two logits, of which the targets are the second: value, and the gradients of both.
    f"pair_forward(Tensor logits, {_SHARED}) -> (Tensor, Tensor, Tensor)",
    # the gradients of both
    f"pair_backward(Tensor grad_output, Tensor logits, {_SHARED}) -> (Tensor, Tensor)",
    # Statistics of a part of the labels, if groups are rows or the whole batch: float64 [statistics, groups].
    f"loss_statistics(Tensor logits, {_SHARED}) -> Tensor",
    # Second-pass sums of a part, from the merged statistics of all parts: float64 [second-pass sums, groups].
    f"loss_second_pass(Tensor statistics, Tensor logits, {_SHARED}) -> Tensor",
    # Merges contiguous [parts, statistics, groups], in the order of the parts, into [statistics, groups].
    "loss_merge(Tensor statistics, str loss) -> Tensor",
    # value and coefficients as in loss_forward, in the compute dtype.
    # second_sums: [parts, second-pass sums, groups] or empty.
    "loss_finalize(Tensor statistics, Tensor second_sums, Tensor? sample_weight, Tensor? normalizer, str loss, "
    "float[] parameters, int grouping, int reduction, SymInt rows, ScalarType dtype) -> (Tensor, Tensor)",
    "scale_gradient(Tensor gradient, Tensor grad_output) -> Tensor",
    "scale_gradient_(Tensor(a!) gradient, Tensor grad_output) -> ()",
)


class Counts(NamedTuple):
    """The numbers of values that a loss has per group; all 0 for element-wise losses.

    A test compares them with the compiled functors.
    """

    coefficients: int = 0
    statistics: int = 0
    second_pass_sums: int = 0


_COUNTS: dict[str, Counts] = {}


def compute_dtype(logits: torch.Tensor) -> torch.dtype:
    """Return the dtype of the loss and of all computations: float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def declare_counts(loss: str, counts: Counts) -> None:
    """Register the counts of ``loss``, which the fakes read."""
    _COUNTS[loss] = counts


def counts_of(loss: str) -> Counts:
    """Return the counts of ``loss``.

    A compound's last coefficients are its terms' values. An element-wise term has one statistic: its value.
    """
    if COMPOUND not in loss:
        return _COUNTS[loss]
    terms = [_COUNTS[term] for term in loss.split(COMPOUND)]
    return Counts(sum(term.coefficients + 1 for term in terms), sum(max(1, term.statistics) for term in terms))


def _groups(logits: torch.Tensor, grouping: int) -> Any:
    rows, labels = logits.shape
    return {"samples": rows, "macro": labels, "micro": 1}.get(GROUPINGS[grouping], 0)


def _fake_value(logits: torch.Tensor, grouping: int, reduction: int) -> torch.Tensor:
    dtype, name = compute_dtype(logits), GROUPINGS[grouping]
    if REDUCTIONS[reduction] != "none" or name == "micro":
        return logits.new_empty((), dtype=dtype)
    if name == "element":
        return logits.new_empty(logits.shape, dtype=dtype)
    return logits.new_empty((_groups(logits, grouping),), dtype=dtype)


# Positions among the arguments after the logits.
_LOSS, _GROUPING, _REDUCTION = (SHARED_NAMES.index(name) for name in ("loss", "grouping", "reduction"))


def _fake_forward_(keep: bool, logits: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    kept = (counts_of(args[_LOSS]).coefficients, _groups(logits, args[_GROUPING])) if keep else (0, 0)
    coefficients = logits.new_empty(kept, dtype=compute_dtype(logits))
    return _fake_value(logits, args[_GROUPING], args[_REDUCTION]), coefficients


def _fake_forward(keep: bool, form: bool, logits: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return *_fake_forward_(keep, logits, *args), logits.new_empty(logits.shape if form else (0,))


def _fake_backward(
    coefficients: torch.Tensor,
    grad_output: torch.Tensor,
    need_logits: bool,
    row: bool,
    scale: bool,
    label: bool,
    logits: torch.Tensor,
    *args: Any,
) -> tuple[torch.Tensor, ...]:
    sums = _fake_backward_(coefficients, grad_output, row, scale, label, logits)
    return logits.new_empty(logits.shape if need_logits else (0,)), *sums


def _fake_backward_(
    coefficients: torch.Tensor,
    grad_output: torch.Tensor,
    row: bool,
    scale: bool,
    label: bool,
    logits: torch.Tensor,
    *args: Any,
) -> tuple[torch.Tensor, ...]:
    rows, labels = logits.shape
    dtype = compute_dtype(logits)
    sizes = (rows if row else 0, rows if scale else 0, labels if label else 0)
    return tuple(logits.new_empty((size,), dtype=dtype) for size in sizes)


def _fake_pair_backward(grad_output: torch.Tensor | None, logits: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape)


def _fake_pair_forward(logits: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return _fake_value(logits, args[_GROUPING], args[_REDUCTION]), *_fake_pair_backward(None, logits)


def _fake_of_groups(logits: torch.Tensor, count: int, args: tuple[Any, ...]) -> torch.Tensor:
    return logits.new_empty((count, _groups(logits, args[_GROUPING])), dtype=torch.float64)


def _fake_finalize(
    statistics: torch.Tensor,
    second_sums: torch.Tensor,
    sample_weight: torch.Tensor | None,
    normalizer: torch.Tensor | None,
    loss: str,
    parameters: list[float],
    grouping: int,
    reduction: int,
    rows: Any,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = statistics.shape[2]
    each = REDUCTIONS[reduction] == "none" and GROUPINGS[grouping] != "micro"
    value = statistics.new_empty((groups,) if each else (), dtype=dtype)
    return value, statistics.new_empty((counts_of(loss).coefficients, groups), dtype=dtype)


_FAKES: dict[str, Callable[..., Any]] = {
    "loss_forward": _fake_forward,
    "loss_forward_": _fake_forward_,
    "loss_backward": _fake_backward,
    "loss_backward_": _fake_backward_,
    "pair_forward": _fake_pair_forward,
    "pair_backward": _fake_pair_backward,
    "loss_statistics": lambda logits, *args: _fake_of_groups(logits, counts_of(args[_LOSS]).statistics, args),
    "loss_second_pass": lambda statistics, logits, *args: _fake_of_groups(
        logits, counts_of(args[_LOSS]).second_pass_sums, args
    ),
    "loss_merge": lambda statistics, loss: statistics.new_empty(statistics.shape[1:]),
    "loss_finalize": _fake_finalize,
    "scale_gradient": lambda gradient, grad_output: torch.empty_like(gradient),
    "scale_gradient_": lambda gradient, grad_output: None,
}

_libraries: dict[str, torch.library.Library] = {}


def define(namespace: str) -> None:
    """Define the ops under ``namespace``, once; an engine's library adds the implementations."""
    if namespace in _libraries:
        return
    library = torch.library.Library(namespace, "FRAGMENT")
    _libraries[namespace] = library
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        name = schema.partition("(")[0]
        torch.library.register_fake(f"{namespace}::{name}", _FAKES[name], lib=library)


define(NAMESPACE)
