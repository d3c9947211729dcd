"""Deferred imports of SciPy."""

from __future__ import annotations

from typing import Any

__all__ = ["linalg", "sparse"]

_MISSING = 'mlloss_cuda.data needs SciPy: pip install "mlloss-cuda[data]"'


def sparse() -> Any:
    """Import ``scipy.sparse``."""
    try:
        import scipy.sparse
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return scipy.sparse


def linalg() -> Any:
    """Import ``scipy.sparse.linalg``."""
    sparse()
    import scipy.sparse.linalg

    return scipy.sparse.linalg
