"""The training packages, imported once without their warnings, and without access to a network."""

from __future__ import annotations

import os
import warnings

__all__ = ["accelerate", "lightning", "transformers"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import accelerate
    import lightning
    import transformers
    from transformers import Trainer as _Trainer  # noqa: F401 - transformers imports it on first use
