"""Fused losses with the names, signatures, defaults and reductions of other libraries: only the import changes.

``torchvision``, ``asl``, ``timm``, ``monai`` and ``bert4torch`` replace the library's own module;
:func:`hf_compute_loss` is for Hugging Face's ``Trainer``. These libraries are not imported and need not be installed.

In all of them the result is float32 (float64 for float64) whatever the logits' dtype, targets may be bool,
integer or, with labels in the last dimension, ``CSRTargets``, and the loss is differentiable once. An option
that the fused losses do not have raises a ValueError that names the supported ones.
"""

from . import asl, bert4torch, monai, timm, torchvision
from .huggingface import hf_compute_loss

__all__ = ["asl", "bert4torch", "hf_compute_loss", "monai", "timm", "torchvision"]
