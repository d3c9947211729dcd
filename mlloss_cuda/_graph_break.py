"""Functions that ``torch.compile`` leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch._compile

__all__ = ["uncompiled"]

F = TypeVar("F", bound=Callable[..., object])


def uncompiled(function: F, reason: str) -> F:
    """``function``, at which a compiled model breaks its graph; under ``fullgraph=True`` the error gives ``reason``.

    It is ``torch.compiler.disable`` without the import of dynamo, which takes longer than that of this package.
    """
    outside = torch._compile._disable_dynamo(function)
    # By these dynamo tells its own skipped functions from those that someone has disabled for a reason.
    outside._torchdynamo_disable = True  # type: ignore[attr-defined]
    outside._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
    return outside  # type: ignore[return-value]
