"""Placeholder."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, check: bool) -> int:
    """Nothing yet."""
    raise NotImplementedError(path, check)
