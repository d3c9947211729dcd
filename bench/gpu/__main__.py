"""``python -m bench.gpu``, which ``make gpu`` runs: everything that a machine with a GPU can show, in ten minutes."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .parts import ROOT, Part, bench, build, capability, clear, end_all, keep_logs, sanitize, tests, unusable

_SHARES = {"first": 2.0, "tests": 4.0, "sanitize": 2.0, "bench": 3.0}  # of the time, of the parts that are run
_PARTS = ("tests", "sanitize", "bench")
_LIMIT = 570.0
_REPORT = 5.0  # seconds, kept for the end
_MARKS = {True: "ok  ", False: "FAIL", None: "?   "}


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--part", action="append", choices=_SHARES, help="only this part (may be repeated)")
    parser.add_argument("--limit", type=float, default=_LIMIT, metavar="SECONDS", help="of all of it; default 570")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, results to a temporary folder")
    parser.add_argument("--full", action="store_true", help="benchmark every dtype, size, mode and peer")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: bench/results; logs go there too")
    parser.add_argument("--no-build", action="store_true", help="take the libraries that are there, if they load")
    return parser.parse_args(given)


def _header(dry: bool) -> dict[str, Any]:
    """Imported late: torch and the package are there to import only after the build."""
    from ..report import about
    from .device import gpu_facts

    header = about(0, False)
    del header["seed"], header["warm_allocator"]
    return {**header, "dry_run": dry, "gpu": gpu_facts()}


def _folder(options: argparse.Namespace) -> Path:
    if options.dry_run:
        # Never beside real results.
        return Path(tempfile.mkdtemp(prefix="mlloss-dry-run-"))
    folder: Path = options.results or ROOT / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _name(dry: bool) -> str:
    """The device's name, for files."""
    if dry:
        return "dry-run"
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def _run(part: str, options: argparse.Namespace, seconds: float, path: Path) -> Part:
    """One part, in its time."""
    dry = options.dry_run
    if part in ("first", "tests"):
        return tests(dry, seconds, part == "first")
    return sanitize(dry, seconds) if part == "sanitize" else bench(dry, options.full, seconds, path)


def _build(options: argparse.Namespace) -> list[Part]:
    architecture = capability()
    if not architecture and not options.dry_run:
        raise SystemExit("make gpu: torch sees no GPU here. `make gpu DRY=1` walks through it on the CPU.")
    if options.no_build:
        reason = "" if options.dry_run else unusable()
        if not reason:
            return []
        print(f"the libraries that are there do not serve: {reason}")
    print("building ...", flush=True)
    # Without a GPU to build for alone: every architecture, in its own time.
    return [build(architecture, options.limit / 2 if architecture else 600.0)]


def _table(done: list[Part], dry: bool) -> str:
    title = "DRY RUN on the CPU: these figures say nothing about any GPU\n" if dry else ""
    lines = [f"{p.name:9} {_MARKS[p.right]} {p.seconds:5.0f} s  {p.words}" for p in done]
    return title + "\n".join(lines)


def _run_all(options: argparse.Namespace, done: list[Part], folder: Path, end: float) -> None:
    """The parts after the build, each in its share of the time that the ones before it have left."""
    name, header = _name(options.dry_run), _header(options.dry_run)
    parts = options.part or _PARTS
    for i, part in enumerate(parts):
        print(f"\n---- {part} ----", flush=True)
        path = folder / f"{name}-{part}.json"
        share = _SHARES[part] / sum(_SHARES[later] for later in parts[i:])
        done.append(_run(part, options, max(1.0, end - time.monotonic()) * share, path))
        if part != "bench":  # which writes for itself, as it goes
            outcome = {"right": done[-1].right, "words": done[-1].words, "seconds": done[-1].seconds}
            path.write_text(json.dumps({**header, **outcome, **done[-1].results}, indent=1) + "\n")
    print(f"\nresults: {folder}\n")


def main(given: list[str] | None = None) -> int:
    """Build, run the parts, write their results, print the short table last; 1: something is wrong, 2: unfinished."""
    options = _arguments(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start = time.monotonic()
    folder = _folder(options)
    done: list[Part] = []
    clear()
    try:
        done += _build(options)
        if all(part.right for part in done):
            # A build without a GPU takes no time from what follows.
            _run_all(options, done, folder, (time.monotonic() if options.dry_run else start) + options.limit - _REPORT)
    finally:
        end_all()
        if options.results:
            keep_logs(folder)
    print(f"{_table(done, options.dry_run)}\n{time.monotonic() - start:.0f} s in all")
    rights = [part.right for part in done]
    return 1 if False in rights else 2 if None in rights else 0


if __name__ == "__main__":
    sys.exit(main())
