"""The list of kernels, and of the loops in each that have a budget.

A new kernel, or a loop that it must have, is a line here. The losses come from the build.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

DTYPES = {"bfloat16": 2, "half": 2, "float": 4, "double": 8}  # bytes of a logit
# The operation that every element needs at least once.
EXPONENTIAL = {"bfloat16": "MUFU.EX2", "half": "MUFU.EX2", "float": "MUFU.EX2"}

# half is bfloat16 with other conversions, and double serves tests: one architecture shows what they cost.
ARCHITECTURES = {
    "bfloat16": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "float": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "half": ("sm_90",),
    "double": ("sm_90",),
}
UNITS = tuple(f"{dtype} {architecture}" for dtype, some in ARCHITECTURES.items() for architecture in some)

# The paths of a loop, by targets: trips without positives; a chunk without positives beside one that has some; a chunk
# with positives.
EITHER = ("csr", "bool")
PATHS = (*EITHER, "bool, mixed", "bool, positives")

# The chunks of a trip: kTripChunks of feed.cuh. All chunks of double take the general form, in which no path is the
# common one.
TRIPS = {"bfloat16": 2, "half": 2, "float": 4}


@dataclass(frozen=True)
class Loop:
    """A loop over the chunks of a row, or over rows that a thread keeps in registers.

    A loop over rows visits the chunks of each row twice, with barriers between the visits.
    """

    name: str
    stores: bool  # the gradient
    exponentials: tuple[float, ...] = (1.0,)  # an element in each visit, at least; fewer if polynomials take a share
    barriers: int = 0
    chunks: int = 0  # in one turn; 0: those of a trip, or one at a time, whichever costs an element less
    trips_only: bool = False  # no chunk at a time
    paths: tuple[str, ...] = PATHS
    others: bool = False  # the loop may load more than logits and targets: coefficients of each label
    apart: bool = False  # its bodies are not those of the loops listed before it

    def turns(self, dtype: str) -> tuple[int, ...]:
        """Return the numbers of chunks that one turn may have."""
        if self.chunks:
            return (self.chunks,)
        return (TRIPS[dtype],) if self.trips_only else (TRIPS[dtype], 1)


STATISTICS = Loop("statistics", stores=False)
VALUE = Loop("value", stores=False)
GRADIENT = Loop("gradient", stores=True)
# The loops of a loss without exponentials.
PLAIN_VALUE, PLAIN_GRADIENT = (
    replace(loop, exponentials=(0.0,), trips_only=True, paths=EITHER) for loop in (VALUE, GRADIENT)
)
SCALE = Loop("scale", stores=True, exponentials=(0.0,), chunks=1, paths=("csr",))
# The whole forward pass with gradient.
ROW = Loop("row", stores=True, exponentials=(1.0, 1.0), barriers=2, chunks=8, others=True)
CSR_ROW, BOOL_ROW = (replace(ROW, paths=(targets, f"{targets}, positives")) for targets in ("csr", "bool"))


def _with_slopes(row: Loop) -> tuple[Loop, ...]:
    """Return loops of Dice: its first visit leaves slopes, which the second one scales, except for squared sums."""
    return replace(row, name="row of squares"), replace(row, exponentials=(1.0, 0.0), apart=True)


# Loops by title, * for the loss; the first pattern that matches counts. Every kernel is checked for spills and local
# memory; an empty tuple means that nothing else is checked. Of several paths that meet a loop's demand the cheapest is
# taken: what a loop stores tells it from the others.
KERNELS: dict[str, tuple[Loop, ...]] = {
    # Options are branches around every chunk of a row, and the cheapest way through them is no common case. The reader
    # takes what a trip loads for logits and targets, but does not know two logits. Second-pass sums read
    # positives only.
    **dict.fromkeys(("general_team_rows<*>", "element_wise<SymmetricKl>", "backward<SymmetricKl, *>"), ()),
    **dict.fromkeys(("pair_gradients<*>",), ()),
    **dict.fromkeys(("label_statistics<*>", "label_gradient<*>", "row_second_pass<*>"), ()),
    **dict.fromkeys(("merge_parts<*>", "finalize_groups<*>", "empty_total", "sum_each"), ()),
    # Sums of a second pass take two more barriers.
    "team_rows<DecoupledSoftmax, kSparse>": (replace(CSR_ROW, barriers=4),),
    "team_rows<DecoupledSoftmax, kBools>": (replace(BOOL_ROW, barriers=4),),
    "team_rows<Dice, kSparse>": _with_slopes(CSR_ROW),
    "team_rows<Dice, kBools>": _with_slopes(BOOL_ROW),
    "team_rows<*, kSparse>": (CSR_ROW,),
    "team_rows<*, kBools>": (BOOL_ROW,),
    "row_statistics<*>": (STATISTICS,),
    "all_statistics<*>": (STATISTICS,),
    "element_wise<SquaredHinge>": (PLAIN_VALUE, PLAIN_GRADIENT),
    "element_wise<*>": (VALUE, GRADIENT),
    "backward<SquaredHinge, *>": (PLAIN_GRADIENT,),
    "backward<*, false>": (GRADIENT,),
    "backward<*, true>": (replace(GRADIENT, paths=("csr",), others=True),),
    "scale": (SCALE,),
}

# Kernels that not every dtype has: double rows are split, and dtypes share statistics, which are double.
ONLY_IN = {
    "team_rows": {"bfloat16", "half", "float"},
    "general_team_rows": {"bfloat16", "half", "float"},
    "merge_parts": {"double"},
}


def entry_for(title: str) -> str | None:
    """Return the pattern in KERNELS that matches a kernel's title."""
    return next((pattern for pattern in KERNELS if fnmatchcase(title, pattern)), None)
