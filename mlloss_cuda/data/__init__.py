"""Multi-label data: readers of files, batches for a ``DataLoader``, and co-occurrence of labels.

It needs NumPy and SciPy: ``pip install "mlloss-cuda[data]"``. ``import mlloss_cuda`` does not import it.
"""

try:
    import numpy as _numpy  # noqa: F401
except ImportError as error:
    raise ImportError('mlloss_cuda.data needs NumPy and SciPy: pip install "mlloss-cuda[data]"') from error

from .arff import read_arff
from .container import MultiLabelData, csr_collate
from .labels import cooccurrence, label_embeddings
from .libsvm import read_libsvm
from .matrices import read_label_pairs, read_sparse_matrix, read_xmc_matrices
from .xmc import iter_xmc, read_xmc

__all__ = [
    "MultiLabelData",
    "cooccurrence",
    "csr_collate",
    "iter_xmc",
    "label_embeddings",
    "read_arff",
    "read_label_pairs",
    "read_libsvm",
    "read_sparse_matrix",
    "read_xmc",
    "read_xmc_matrices",
]
