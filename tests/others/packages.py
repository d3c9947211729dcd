"""The other packages, imported once without their warnings. torchvision needs help on a CPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from types import ModuleType
from typing import Any

from bench.formulas import torchvision_ops as _torchvision_ops

__all__ = [
    "bert4torch_losses",
    "classification",
    "kornia_losses",
    "liger_cross_entropy",
    "monai_losses",
    "retrieval",
    "sklearn_metrics",
    "smp_losses",
    "timm_losses",
    "torchvision_ops",
]


def _module_alone(package: str, path: str) -> ModuleType:
    """Import one file of an installed package, without the package's other imports."""
    file = importlib.metadata.distribution(package).locate_file(path)
    spec = importlib.util.spec_from_file_location(f"{package}_alone", str(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchvision_ops = _torchvision_ops()  # first, because other packages import torchvision
    from kornia import losses as kornia_losses
    from monai import losses as monai_losses
    from segmentation_models_pytorch import losses as smp_losses
    from sklearn import metrics as sklearn_metrics
    from timm import loss as timm_losses
    from torchmetrics.functional import classification, retrieval

    # The package as a whole imports tokenizers and trainers.
    bert4torch_losses: Any = _module_alone("bert4torch", "bert4torch/losses.py")
    # Its Triton kernels need a GPU, but the definitions of its functions can be imported.
    from liger_kernel.ops import cross_entropy as liger_cross_entropy
