"""The loss functions without the modules, for imports such as ``functional as F``."""

from . import losses
from .losses import *  # noqa: F403

__all__ = [name for name in losses.__all__ if name.endswith("_loss")]
