"""Locks between all processes that run tests on this machine."""

from __future__ import annotations

import fcntl
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["gpu_memory", "one_at_a_time"]


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Wait until no other process holds this name, and hold it. A process that ends, even by a signal, releases it."""
    with (Path(tempfile.gettempdir()) / f"mlloss-{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def gpu_memory() -> Iterator[None]:
    """Reserve a large part of a GPU's memory for this process; afterwards the caching allocator keeps none of it."""
    with one_at_a_time("gpu-memory"):
        try:
            yield
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
