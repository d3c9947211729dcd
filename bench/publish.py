"""``make report``: the README's tables, ``docs/benchmarks.md`` and its pictures, drawn from ``bench/results``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from . import page, plots, readme
from .figures import committed

__all__ = ["texts"]

_ROOT = Path(__file__).resolve().parents[1]


def texts() -> dict[Path, str]:
    """Return the text of each page."""
    at = _ROOT / "README.md"
    return {at: readme.rendered(at.read_text()), _ROOT / "docs" / "benchmarks.md": page.rendered(committed())}


def main(given: list[str] | None = None) -> int:
    """Write pages and pictures, or return whether the pages would change."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a page would change")
    options = parser.parse_args(given)
    if options.check:
        return int(any(not path.exists() or path.read_text() != text for path, text in texts().items()))
    for path, text in texts().items():
        path.write_text(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("pictures are not drawn: matplotlib is not installed", file=sys.stderr)
        return 0
    plots.draw(committed())
    return 0


if __name__ == "__main__":
    sys.exit(main())
