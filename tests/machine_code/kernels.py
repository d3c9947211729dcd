"""The list of kernels, and of the loops in each that have a budget.

A new kernel, or a loop that it must have, is a line here. The losses come from the build.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

DTYPES = {"bfloat16": 2, "half": 2, "float": 4, "double": 8}  # bytes of a logit
# The operation that every element needs at least once.
EXPONENTIAL = {"bfloat16": "MUFU.EX2", "half": "MUFU.EX2", "float": "MUFU.EX2", "double": "DFMA"}

# half is bfloat16 with other conversions, and double serves tests: one architecture shows what they cost.
ARCHITECTURES = {
    "bfloat16": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "float": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "half": ("sm_90",),
    "double": ("sm_90",),
}
UNITS = tuple(f"{dtype} {architecture}" for dtype, some in ARCHITECTURES.items() for architecture in some)

# Architecture -> device -> instructions and special-function operations an element, forward with gradient, for 2-byte
# logits: 70% of what the device issues while a copy moves the element.
GATES: dict[str, dict[str, tuple[float, float]]] = {
    "sm_90": {"H100": (27, 3.4), "H200": (19, 2.5)},
    "sm_100": {"B200": (13, 1.7)},
}

# A chunk without positives, of CSR and of dense bool targets; a chunk with positives, of dense bool targets.
PATHS = ("csr", "bool", "bool, positives")

# Two bool targets of a double chunk are fewer bytes than an asynchronous copy moves: there is no fast path.
SPARSE_ONLY = ("double",)


@dataclass(frozen=True)
class Loop:
    """A loop over the chunks of a row, which reads each chunk's logits and may store its gradient."""

    name: str
    stores: bool
    exponentials: float = 1.0  # an element, at least; fewer if polynomials take a share
    chunks: int = 1  # a trip, if the loop is unrolled
    paths: tuple[str, ...] = PATHS  # "bool, positives" needs a body of its own
    others: bool = False  # the loop may load more than logits and targets: coefficients of each label


STATISTICS = Loop("statistics", stores=False)
# A chunk without positives adds nothing to these sums.
SECOND_PASS = Loop("second-pass sums", stores=False, exponentials=0.0, paths=("csr", "bool"))
VALUE = Loop("value", stores=False)
GRADIENT = Loop("gradient", stores=True)
# The loops of a loss without exponentials.
PLAIN_VALUE, PLAIN_GRADIENT = replace(VALUE, exponentials=0.0), replace(GRADIENT, exponentials=0.0)
SCALE = Loop("scale", stores=True, exponentials=0.0, paths=("csr",))

# Loops by title, * for the loss; the first pattern that matches counts. Every kernel is checked for spills and local
# memory; an empty tuple means that nothing else is checked. Of several paths that meet a loop's demand the cheapest is
# taken: what a loop stores tells it from the others.
KERNELS: dict[str, tuple[Loop, ...]] = {
    "streaming<DecoupledSoftmax>": (STATISTICS, SECOND_PASS, GRADIENT),
    "resident<DecoupledSoftmax>": (STATISTICS, SECOND_PASS, GRADIENT),
    "streaming<*>": (STATISTICS, GRADIENT),
    "resident<*>": (STATISTICS, GRADIENT),
    "row_statistics<*>": (STATISTICS,),
    "row_late_sums<*>": (SECOND_PASS,),
    "all_statistics<*>": (STATISTICS,),
    "collect_statistics<*>": (),
    "place_statistics<*>": (),
    "collect_late_sums<*>": (),
    "merge_parts<*>": (),
    "finish_parts<*>": (),
    "label_statistics<*>": (),
    "label_conclude<*>": (),
    "group_backward<*, false>": (GRADIENT,),
    "group_backward<*, true>": (Loop("gradient", stores=True, paths=("csr",), others=True),),
    # The reader takes what a trip loads for logits and targets; it does not know two logits.
    "element_wise<SymmetricKl>": (),
    "element_wise_backward<SymmetricKl>": (),
    "element_wise<SquaredHinge>": (PLAIN_VALUE, PLAIN_GRADIENT),
    "element_wise_backward<SquaredHinge>": (PLAIN_GRADIENT,),
    "element_wise<*>": (VALUE, GRADIENT),
    "element_wise_backward<*>": (GRADIENT,),
    "scale": (SCALE,),
    "label_gradient<*>": (),
    "sum_total": (),
    "sum_each": (),
}

# Kernels that the other dtypes share: statistics are double, results have the compute dtype.
ONLY_IN = {"merge_parts<*>": {"double"}, "finish_parts<*>": {"float", "double"}}

# The loops that are looked for in a kernel that is not listed, so that its figures can be seen before it is.
UNLISTED = (STATISTICS, GRADIENT)


def entry_for(title: str) -> str | None:
    """Return the pattern in KERNELS that matches a kernel's title."""
    return next((pattern for pattern in KERNELS if fnmatchcase(title, pattern)), None)


# By launch strategy, the loops of a forward pass with gradient, * for the same loss: the gates apply to their sum.
FORWARD = {
    "streaming": (("streaming<*>", "statistics"), ("streaming<*>", "gradient")),
    "resident": (("resident<*>", "statistics"), ("resident<*>", "gradient")),
    "split": (("row_statistics<*>", "statistics"), ("group_backward<*, false>", "gradient")),
    "element-wise": (("element_wise<*>", "gradient"),),
}
