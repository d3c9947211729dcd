"""The Triton engine: the same losses without a compiled CUDA library, and on GPUs of other vendors.

Only this package imports Triton, and it is imported only once there is a GPU to run on.
"""

from __future__ import annotations

import torch

from .. import _ops
from .launch import describe, functor_of, implementations

__all__ = ["NAMESPACE", "describe", "functor_of", "register"]

NAMESPACE = "mlloss_cuda_triton"

_libraries: dict[str, torch.library.Library] = {}


def register(dispatch_key: str) -> None:
    """Implement the ops for ``"CUDA"``, ``"XPU"``, or ``"CPU"`` (Triton's interpreter), once."""
    if dispatch_key in _libraries:
        return
    _ops.define(NAMESPACE)
    library = torch.library.Library(NAMESPACE, "IMPL", dispatch_key)
    _libraries[dispatch_key] = library
    for name, implementation in implementations.items():
        library.impl(name, implementation)
