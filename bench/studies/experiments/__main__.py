"""``python -m bench.studies.experiments``: train with each loss, record the metrics, and report.

    losses NAME=FILE.arff[+FILE.arff][@LABELS.xml] ...   eleven losses, the rate tuned, five seeds
    imbalance NAME=FILE.arff[@LABELS.xml]                three labels, 1 positive to 11.5 negatives
    names [--labels L]                                   the demo's corpus, precision by time
    report                                               draw docs/experiments.md's tables and pictures from the results

Training runs on one thread; losses needs torchmetrics.
Results are lines of bench/results/experiments.jsonl; a run whose line exists is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .store import RESULTS, Store, read

__all__ = ["main"]


def _report(path: Path, check: bool) -> int:
    """Draw tables and pictures anew, or return whether the tables would change."""
    from . import pictures, report

    records = list(read(path))
    before = report.PAGE.read_text()
    after = report.rendered(before, records)
    if check:
        return int(before != after)
    report.PAGE.write_text(after)
    pictures.draw(records, report.PAGE.parent / "images" / "experiments")
    return 0


def main(given: list[str] | None = None) -> int:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("losses", "imbalance", "names", "report"))
    parser.add_argument("sets", nargs="*", metavar="NAME=FILE.arff")
    parser.add_argument("--labels", type=int, default=30_000, help="number of labels of names (default: 30,000)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument(
        "--check", action="store_true", help="report: change nothing; exit with 1 if the tables would change"
    )
    options = parser.parse_intermixed_args(given)
    if bool(options.sets) != (options.part in ("losses", "imbalance")):
        parser.error(f"{options.part}: {'takes no sets' if options.sets else 'which sets?'}")
    if options.part == "report":
        return _report(options.results, options.check)
    import torch

    torch.set_num_threads(1)
    store = Store(options.results)
    if options.part == "names":
        from . import names

        names.run(store, options.labels)
        return 0
    from . import imbalance, study

    sets = study.read_sets(options.sets)
    if options.part == "losses":
        study.run(store, sets)
    else:
        for name, data in sets.items():
            imbalance.run(store, name, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
