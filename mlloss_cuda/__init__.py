"""Multi-label losses as fused kernels for PyTorch: forward and backward in one pass over the logits."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from ._autograd import unit_grad_output
from ._backends import BackendStatus, backends, use_backend
from ._extension import reserve_multiprocessors
from ._version import __version__
from .balance import label_weights, prior_bias
from .compat.huggingface import hf_compute_loss
from .decisions import fit_thresholds
from .linear import FusedAdam, FusedSGD, LinearLoss, LinearPlan, linear_loss
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .sharding import ShardedLoss, shard_labels
from .targets import CSRTargets

if TYPE_CHECKING:
    from . import compat as compat
    from . import data as data
    from . import functional as functional
    from . import metrics as metrics

__all__ = [
    "BackendStatus",
    "CSRTargets",
    "FusedAdam",
    "FusedSGD",
    "LinearLoss",
    "LinearPlan",
    "ShardedLoss",
    "__version__",
    "backends",
    "fit_thresholds",
    "hf_compute_loss",
    "label_weights",
    "linear_loss",
    "prior_bias",
    "reserve_multiprocessors",
    "shard_labels",
    "unit_grad_output",
    "use_backend",
]
__all__ += _losses

# These are imported on first use, so that `import mlloss_cuda` needs nothing but torch.
_SUBMODULES = ("compat", "data", "functional", "metrics")


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
