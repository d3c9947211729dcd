"""Which kernels there are, and which ways through their loops have a budget.

A new kernel, or a path that its loops must have, is a line here. Losses and dtypes come from the build.
"""

from dataclasses import dataclass

# bytes an element of the logits, and the operation that every element needs at least one of
DTYPES = {"bfloat16": 2, "half": 2, "float": 4, "double": 8}
EXPONENTIAL = {"bfloat16": "MUFU.EX2", "half": "MUFU.EX2", "float": "MUFU.EX2", "double": "DFMA"}

# half runs bfloat16's code with other conversions, and double is for tests: one architecture shows what they cost.
ARCHITECTURES = {
    "bfloat16": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "float": ("sm_80", "sm_90", "sm_100", "sm_120"),
    "half": ("sm_90",),
    "double": ("sm_90",),
}


@dataclass(frozen=True)
class Loop:
    """A loop over the chunks of a row; each chunk's logits are read, and its gradient is stored or not."""

    name: str
    stores: bool
    exponential: bool = True


STATISTICS = Loop("statistics", stores=False)
VALUE = Loop("value", stores=False)
GRADIENT = Loop("gradient", stores=True)
SCALE = Loop("scale", stores=True, exponential=False)

# Kernels by the name of their template. Without loops: checked for spills and local memory only.
KERNELS: dict[str, tuple[Loop, ...]] = {
    "streaming": (STATISTICS, GRADIENT),
    "resident": (STATISTICS, GRADIENT),
    "group_backward": (GRADIENT,),
    "element_wise": (VALUE, GRADIENT),
    "element_wise_backward": (GRADIENT,),
    "scale": (SCALE,),
    "label_gradient": (),
    "sum_total": (),
    "sum_each": (),
}

# A chunk without positives from CSR targets; from dense bool ones; and one with positives from dense bool ones.
PATHS = ("csr", "bool", "bool, positives")

# Loops that a forward pass with gradient goes through, one after the other: what the gates are about.
FORWARD = {
    "streaming": ("statistics", "gradient"),
    "resident": ("statistics", "gradient"),
    "element_wise": ("gradient",),
}

# 70% of what the architecture can issue while a copy would move the element: instructions, special functions.
# By the fastest memory that goes with it: H100 and H200 share sm_90, and the gate is the H100's.
GATES = {"sm_90": (27.0, 3.4), "sm_100": (13.0, 1.7)}
