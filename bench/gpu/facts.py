"""``python -m bench.gpu.facts``: the device, the backends and one ZLPR step, in one process: torch is imported once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import processes
from .processes import Part, Started, how

__all__ = ["facts"]


def _step(dry: bool) -> str:
    """Compare a forward and backward of ZLPR with float64 on the CPU; return the error, or an empty string."""
    import torch

    import mlloss_cuda

    device, backend = ("cpu", "cpu") if dry else ("cuda", "cuda")
    shape = (3, 1_001) if dry else (64, 131_073)
    logits = torch.randn(shape)
    targets = torch.rand(shape) < 1e-3
    leaf = logits.to(device, copy=True).requires_grad_()
    with mlloss_cuda.use_backend(backend):
        value = mlloss_cuda.zlpr_loss(leaf, targets.to(device))
        value.backward()
    exact = logits.double().requires_grad_()
    with mlloss_cuda.use_backend("reference"):
        expected = mlloss_cuda.zlpr_loss(exact, targets)
        expected.backward()
    assert leaf.grad is not None
    assert exact.grad is not None
    apart = (leaf.grad.cpu().double() - exact.grad).norm() / exact.grad.norm()
    if abs(float(value) / float(expected) - 1) < 1e-5 and float(apart) < 1e-5:  # NaN fails both comparisons
        return ""
    return (
        f"value {float(value)!r}, float64 {float(expected)!r}; the gradient differs by {float(apart):.2g} of its norm"
    )


def _header(dry: bool) -> dict[str, Any]:
    from ..about import about
    from .device import gpu_facts

    header = about(0, False)
    del header["seed"], header["warm_allocator"]
    return {**header, "dry_run": dry, "gpu": gpu_facts()}


def _name(dry: bool) -> str:
    """Return the device's name for the names of files."""
    import re

    import torch

    name = torch.cuda.get_device_name() if not dry and torch.cuda.is_available() else "dry-run" if dry else "no-gpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def facts(dry: bool, seconds: float) -> tuple[Part, dict[str, Any]]:
    """Return the outcome of the step, and a dict: ``name``, ``header``, ``unusable`` (why libraries do not load)."""
    path = processes.LOGS / f"facts-{os.getpid()}.json"  # another command may run beside this one
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.gpu.facts", "--json", str(path), *(["--dry-run"] if dry else [])]
    ended = Started("step", command, seconds, {}).wait()
    if not path.exists():
        reason = ended.tail(1) or "the process printed nothing"
        return Part("step", False, how(ended.status), ended.seconds), {"unusable": reason}
    found = json.loads(path.read_text())
    path.unlink()
    wrong = found.get("step", "the step did not finish")
    if wrong:
        print(ended.tail())
    words = f"{found['name']}: {wrong or 'one ZLPR step is right'}"
    return Part("step", not wrong, words, ended.seconds), found


def main(given: list[str] | None = None) -> int:
    """Write the facts before the step runs, then the step's outcome."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.facts", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="PATH", help="file for the facts")
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU")
    options = parser.parse_args(given)
    import mlloss_cuda

    status = mlloss_cuda.backends()
    for backend, (usable, reason) in status.items():
        print(f"{backend}: {'usable' if usable else reason}", flush=True)
    reason = status["cpu" if options.dry_run else "cuda"].reason
    found = {"name": _name(options.dry_run), "header": _header(options.dry_run), "unusable": reason}
    options.json.write_text(json.dumps(found))
    if reason:
        return 1
    try:
        found["step"] = _step(options.dry_run)
    except Exception as error:
        found["step"] = f"{type(error).__name__}: {error}"
    options.json.write_text(json.dumps(found))
    return 1 if found["step"] else 0


if __name__ == "__main__":
    sys.exit(main())
