"""``python -m bench.predict``: the launch planner's plans of row-wise losses on an H100 and an H200, and what its model
predicts for them, as the table of docs/design.md. Nothing is measured, and no GPU is needed.
"""

from __future__ import annotations

from typing import Any, Final

from mlloss_cuda import _extension

from .markdown import table

__all__ = ["rendered"]

_MANY: Final = ((4096, 5_000), (4096, 8_192), (4096, 32_000), (512, 131_073), (64, 670_091), (64, 2_812_281))
_FEW: Final = ((4096, 80), (1, 131_073), (64, 131_072), (48, 2_812_281))
_DEVICES: Final = ("H100", "H200")
_DTYPES: Final = ("bfloat16", "float32")


def _cells(plan: dict[str, Any]) -> list[str]:
    if plan["strategy"] == "team":
        chunks = -(-plan["chunks_per_warp"] // 32)
        words = f"{plan['team']} x {plan['threads']} x {chunks}"
    else:
        words = plan["strategy"]
    return [words, f"{plan['bytes_in_flight'] / 1024:.0f}", f"{plan['fraction']:.2f}", plan["bound"]]


def rendered() -> str:
    """Return the table: a row for each shape and dtype."""
    plans = _extension.launch_plan
    if plans is None:
        raise RuntimeError("the compiled extension is not installed")
    head = ["rows x labels", "dtype"]
    for device in _DEVICES:
        head += [f"{device}: plan", "KB", "of the floor", "bound by"]
    lines = []
    for rows, labels in (*_MANY, *_FEW):
        for dtype in _DTYPES:
            cells = [f"{rows:,} x {labels:,}", dtype]
            for device in _DEVICES:
                cells += _cells(plans(rows, labels, dtype, device=device))
            lines.append(cells)
    return table(head, lines)


if __name__ == "__main__":
    print(rendered())
