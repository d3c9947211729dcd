"""Which kernels there are, and which ways through their loops have a budget.

A new kernel, or a loop that it must have, is a line here. Losses come from the build.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

# Bytes an element of the logits; and the operation that every element needs at least one of.
DTYPES = {"bfloat16": 2, "half": 2, "float": 4, "double": 8}
EXPONENTIAL = {"bfloat16": "MUFU.EX2", "half": "MUFU.EX2", "float": "MUFU.EX2", "double": "DFMA"}

# half is bfloat16 with other conversions, and double is there for tests: one architecture shows what they cost.
ARCHITECTURES = {
    "bfloat16": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "float": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "half": ("sm_90",),
    "double": ("sm_90",),
}


# A chunk without positives: by CSR targets, by dense bool ones; and a chunk with positives, by dense bool ones.
PATHS = ("csr", "bool", "bool, positives")


# Two bool targets are fewer bytes than are copied ahead: they have no short way.
SPARSE_ONLY = ("double",)


@dataclass(frozen=True)
class Loop:
    """A loop over the chunks of a row: each chunk's logits are read, and its gradient is stored or nothing is."""

    name: str
    stores: bool
    exponentials: float = 1.0  # an element, at least; fewer where polynomials take a share
    chunks: int = 1  # a trip, where the loop is unrolled
    paths: tuple[str, ...] = PATHS  # "bool, positives" needs a body of its own
    others: bool = False  # more is loaded than logits and targets: coefficients of each label


STATISTICS = Loop("statistics", stores=False)
# Where there is no positive, nothing is added up.
LATE = Loop("late sums", stores=False, exponentials=0.0, paths=("csr", "bool"))
VALUE = Loop("value", stores=False)
GRADIENT = Loop("gradient", stores=True)
# Of a loss without exponentials.
PLAIN_VALUE, PLAIN_GRADIENT = replace(VALUE, exponentials=0.0), replace(GRADIENT, exponentials=0.0)
SCALE = Loop("scale", stores=True, exponentials=0.0, paths=())

# By title, * for the loss; the first that fits counts. All are checked for spills and local memory, those without loops
# for no more. Where several paths would do, the cheapest is taken: which loop is which follows from what it stores.
KERNELS: dict[str, tuple[Loop, ...]] = {
    "streaming<DecoupledSoftmax>": (STATISTICS, LATE, GRADIENT),
    "resident<DecoupledSoftmax>": (STATISTICS, LATE, GRADIENT),
    "streaming<*>": (STATISTICS, GRADIENT),
    "resident<*>": (STATISTICS, GRADIENT),
    "row_statistics<*>": (STATISTICS,),
    "row_late_sums<*>": (LATE,),
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
    # What a trip loads is looked for as logits and targets, not as two logits.
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

# Kernels that the other dtypes share: statistics are double, results of the compute type.
ONLY_IN = {"merge_parts<*>": {"double"}, "finish_parts<*>": {"float", "double"}}

# What is looked for in a kernel that is not listed, so that its figures can be seen before it is.
UNLISTED = (STATISTICS, GRADIENT)


def entry_for(title: str) -> str | None:
    """The line of KERNELS that a kernel falls under."""
    return next((pattern for pattern in KERNELS if fnmatchcase(title, pattern)), None)


# The loops that a forward pass with gradient goes through, * for the same loss in each: the gates are about their sum.
FORWARD = {
    "split": (("row_statistics<*>", "statistics"), ("group_backward<*, false>", "gradient")),
    "streaming": (("streaming<*>", "statistics"), ("streaming<*>", "gradient")),
    "resident": (("resident<*>", "statistics"), ("resident<*>", "gradient")),
    "element-wise": (("element_wise<*>", "gradient"),),
}
