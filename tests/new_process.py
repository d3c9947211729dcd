"""Python programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlloss_cuda

__all__ = ["run_python"]

# `python -c` and `python -m` import from the current folder first: this one has the package under test.
PACKAGE_ROOT = Path(mlloss_cuda.__file__).parent.parent


def run_python(
    *arguments: str, folder: Path = PACKAGE_ROOT, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` in a folder, with additional environment variables, and capture its output."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
