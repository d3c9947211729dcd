"""The Triton kernels on CPU tensors, by Triton's interpreter, in a process that does nothing else with Triton."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mlloss_cuda import BackendStatus, _backends

__all__ = ["start"]


def start() -> None:
    """Make ``use_backend("triton")`` serve CPU tensors. Call it before anything imports triton."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    from mlloss_cuda import _triton

    _patch_once_a_launch(interpreter)
    _triton.register("CPU")
    _backends.add_engine("triton", _backends.Engine(lambda: BackendStatus(True, ""), ("cpu",), _triton.NAMESPACE))


def _patch_once_a_launch(interpreter: Any) -> None:
    """Make the interpreter replace triton.language once for each launch and module.

    It does so at each call of a @triton.jit function, which takes half of its time.
    """
    patched: set[int] = set()
    run = interpreter.GridExecutor.__call__

    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()
        with np.errstate(all="ignore"):  # a GPU does not warn of inf and NaN
            return run(self, *args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in patched:
            patched.add(module)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.GridExecutor.__call__ = launch
    interpreter.InterpretedFunction.__call__ = call
