"""The machine, the versions and the commit that results come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import mlloss_cuda

__all__ = ["about"]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def about(seed: int, warm: bool) -> dict[str, Any]:
    """Return the header of a result file: machine, versions, commit, and how busy the machine is."""
    commit = _git("rev-parse", "HEAD")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": {
            "cpu": _cpu_model(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_before": os.getloadavg()[0],
        },
        "versions": {
            "mlloss_cuda": mlloss_cuda.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()),
        },
        "commit": os.environ.get("COMMIT") or commit,  # COMMIT names it where the tree has no history
        "modified": bool(_git("status", "--porcelain", "--", ".", ":!results")) if commit else None,  # None: unknown
        "seed": seed,
        "warm_allocator": warm,
    }
