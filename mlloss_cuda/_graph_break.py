"""A decorator for functions that ``torch.compile`` does not trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch._compile

__all__ = ["uncompiled"]

F = TypeVar("F", bound=Callable[..., object])


def uncompiled(function: F, reason: str) -> F:
    """Return ``function`` with a graph break in compiled models; the error under ``fullgraph=True`` gives ``reason``.

    It is ``torch.compiler.disable`` without the import of dynamo, which takes longer than the import of this package.
    """
    outside = torch._compile._disable_dynamo(function)
    # These attributes mark a function that was disabled for a reason; dynamo's own skipped functions lack them.
    outside._torchdynamo_disable = True  # type: ignore[attr-defined]
    outside._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
    return outside  # type: ignore[return-value]
