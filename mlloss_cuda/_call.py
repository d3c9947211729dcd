"""One call of a loss as the ops and the engines take it.

``TensorArguments`` and the first fields of ``Options`` list the arguments that follow the logits in every op on logits:
the targets, the options, and then the other tensors, which most calls leave out.
The ops' schemas (``_ops``), the fakes, the Triton engine and the reference read names, order and types here; csrc/ops.h
has the same list in C++, and a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from ._registry import Term
    from .sharding.shards import LabelShards
    from .targets import CSRTargets

__all__ = [
    "LEARNED",
    "OF_LABELS",
    "SHARED_NAMES",
    "CheckedCall",
    "Options",
    "TensorArguments",
    "shared_arguments",
    "shared_schema",
]

SymInt = int  # an int that torch.compile may leave symbolic


class TensorArguments(NamedTuple):
    """The tensors beside the logits: targets, their indices, and the rest in the compute dtype."""

    targets: Tensor | None = None
    crow_indices: Tensor | None = None
    col_indices: Tensor | None = None
    values: Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    logit_scale: Tensor | None = None
    label_offset: Tensor | None = None
    row_offset: Tensor | None = None
    normalizer: Tensor | None = None
    label_parameter: Tensor | None = None


class Options(NamedTuple):
    """The shared arguments that are not tensors; the last three fields choose the op and what it returns."""

    loss: str
    parameters: tuple[float, ...]
    grouping: int
    reduction: int
    scale: float = 1.0  # replaced by the tensor ``logit_scale`` if there is one
    offset: float = 0.0
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    first_label: SymInt = 0  # the label of the logits' first column
    all_labels: SymInt = 0
    namespace: str = ""  # the namespace of the engine's ops; empty for the reference
    in_place: bool = False
    keep: bool = False  # the call returns coefficients, whether or not the backward needs them


class CheckedCall(NamedTuple):
    """A call that passed every check, with everything that a backend needs to run it."""

    term: Term
    backend: str
    logits: Tensor  # [rows, labels]
    targets: Tensor | CSRTargets
    tensors: TensorArguments
    options: Options
    shards: LabelShards | None = None  # if set, logits, targets and tensors hold this rank's labels


_OP_OPTIONS: Final = Options._fields[: Options._fields.index("namespace")]
SHARED_NAMES: Final = ("targets", *_OP_OPTIONS, *TensorArguments._fields[1:])

# Fields of TensorArguments that have an entry for each label, whatever the layout of the targets.
OF_LABELS: Final = ("weight", "label_offset", "label_parameter")

# Fields of TensorArguments that may have a gradient, in the order of loss_backward's results.
LEARNED: Final = ("row_offset", "logit_scale", "label_offset")

_SCHEMA_TYPES: Final = {
    "Tensor | None": "Tensor?",
    "str": "str",
    "tuple[float, ...]": "float[]",
    "int": "int",
    "float": "float",
    "int | None": "int?",
    "SymInt": "SymInt",
}


def shared_schema() -> str:
    """Return the shared arguments as an op's schema declares them; the tensors at the end may be left out."""
    annotations = {**TensorArguments.__annotations__, **Options.__annotations__}
    written = {name: getattr(kind, "__forward_arg__", kind) for name, kind in annotations.items()}
    optional = TensorArguments._fields[1:]
    return ", ".join(
        f"{_SCHEMA_TYPES[written[name]]} {name}{'=None' if name in optional else ''}" for name in SHARED_NAMES
    )


_COUNT: Final = len(_OP_OPTIONS)


def shared_arguments(tensors: TensorArguments, options: Options) -> tuple[Any, ...]:
    """Return the arguments that every op takes after the logits, in the schemas' order, without None at the end."""
    _, crow, col, values, weight, sample_weight, scale, label, row, normalizer, parameter = tensors
    if crow is col is values is weight is sample_weight is scale is label is row is normalizer is parameter is None:
        return tensors[:1] + options[:_COUNT]
    return tensors[:1] + options[:_COUNT] + tensors[1:]
