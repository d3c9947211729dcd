"""``python -m bench.gpu.tune``: times of candidate tile sizes for the Triton kernels on this GPU, and of the table's.

Nothing is tuned in a user's program. A size that wins here by more than the noise belongs in ``_triton/tuning.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlloss_cuda import CSRTargets, use_backend, zlpr_loss
from mlloss_cuda.losses import sigmoid_focal_loss

from .device import Device

_ELEMENTS, _WARPS, _REGISTERS = (1024, 2048, 4096, 8192, 16384), (4, 8, 16, 32), (None, 64, 128)
_SHAPES = ((2048, 8_192), (1024, 131_073), (48, 2_812_281))
_BATCHES = 4
_POSITIVES = 5  # a row


class _Call(NamedTuple):
    """A call to time: one kind of work in the table of sizes, at one shape and dtype."""

    work: str
    rows: int
    labels: int
    dtype: torch.dtype

    def make(self, device: str) -> Callable[[int], Any]:
        """Return forward + backward; calls alternate between logits, so that none finds its own in L2."""
        logits = [torch.randn(self.rows, self.labels, device=device, dtype=self.dtype) for _ in range(2)]
        columns = torch.arange(_POSITIVES).expand(self.rows, -1) * (self.labels // _POSITIVES)
        targets = CSRTargets.from_padded(columns, self.labels).to(device)
        loss = zlpr_loss if self.work == "rows" else sigmoid_focal_loss

        def call(index: int) -> None:
            leaf = logits[index % 2].detach().requires_grad_()
            loss(leaf, targets).backward()

        return call


def _median(device: Device, call: Callable[[int], Any]) -> float:
    call(0)  # compiles
    device.synchronize()
    host = device.host_seconds(lambda index: None, call, 1)
    batches = 1 if device.dry else _BATCHES
    times = [ms for batch in range(batches) for ms in device.time_batch(lambda index: None, call, 8 * batch, host)]
    return statistics.median(times)


def _candidates(dry: bool) -> Iterator[Any]:
    from mlloss_cuda._triton.tuning import Size

    yield None  # the table's own size
    for elements in _ELEMENTS:
        for warps in _WARPS:
            for registers in _REGISTERS:
                fits = registers is None or registers * warps * 32 <= 65536
                if 4 <= elements // (32 * warps) <= 32 and fits:
                    yield Size(elements, warps, registers)
                    if dry:
                        return


def measure(device: Device, call: _Call, dry: bool) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of each size, or the failure."""
    from mlloss_cuda._triton import plan

    run = call.make(device.type)
    for size in _candidates(dry):
        row = {"work": call.work, "rows": call.rows, "labels": call.labels, "dtype": str(call.dtype)[6:], "size": size}
        plan.forced_size = size
        try:
            with use_backend("triton"):
                yield {**row, "ms": _median(device, run)}
        except Exception as error:  # for example too many registers
            yield {**row, "failure": f"{type(error).__name__}: {str(error)[:120]}"}
        finally:
            plan.forced_size = None


def main(given: list[str] | None = None) -> None:
    """Time every size, and print the fastest first."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.tune", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="file for all times")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on any device that runs Triton: does it run?"
    )
    options = parser.parse_args(given)
    device, found = Device(options.dry_run), []
    shapes = ((3, 500),) if options.dry_run else _SHAPES
    for work in ("rows", "units"):
        for rows, labels in shapes:
            for dtype in (torch.bfloat16, torch.float32):
                timed = list(measure(device, _Call(work, rows, labels, dtype), options.dry_run))
                found += timed
                print(f"\n{work}, {rows} x {labels:,}, {str(dtype)[6:]}")
                for row in sorted((row for row in timed if "ms" in row), key=lambda row: row["ms"])[:6]:
                    print(f"  {row['ms']:9.4f} ms  {row['size'] or 'the size in the table'}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
