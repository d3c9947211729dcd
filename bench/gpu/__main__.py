"""``python -m bench.gpu``, which ``make gpu`` runs: everything that a machine with a GPU can show, in 8 minutes."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .parts import ROOT, Part, bench, build, capability, sanitize, tests

_PARTS = ("tests", "sanitize", "bench")
_LIMIT = 8 * 60.0
_MOST = {"build": 240.0, "tests": 170.0, "sanitize": 90.0}  # seconds
_FULL = 50 * 60.0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this part (may be repeated)")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, results to a temporary folder")
    parser.add_argument("--full", action="store_true", help="benchmark every dtype, size, mode and peer: no time limit")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: bench/results")
    parser.add_argument("--no-build", action="store_true", help="take the libraries that are there")
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


def _run(part: str, options: argparse.Namespace, left: float, path: Path) -> Part:
    """One part, in the time that is left."""
    dry = options.dry_run
    if part == "tests":
        return tests(dry, min(left, _MOST["tests"]))
    if part == "sanitize":
        return sanitize(dry, min(left, _MOST["sanitize"]))
    return bench(dry, options.full, _FULL if options.full else max(30.0, left - 50), path)


def _build(options: argparse.Namespace) -> list[Part]:
    architecture = capability()
    if not architecture and not options.dry_run:
        raise SystemExit("make gpu: torch sees no GPU here. `make gpu DRY=1` walks through it on the CPU.")
    if options.no_build:
        return []
    print("building ...", flush=True)
    # Without a GPU to build for alone: every architecture.
    return [build(architecture, _MOST["build"] if architecture else 600.0)]


def _table(done: list[Part], dry: bool) -> str:
    title = "DRY RUN on the CPU: these figures say nothing about any GPU\n" if dry else ""
    lines = [f"{p.name:9} {'ok  ' if p.right else 'FAIL'} {p.seconds:5.0f} s  {p.words}" for p in done]
    return title + "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    """Build, run the parts, write their results, and print the short table last; 1 if anything was wrong."""
    options = _arguments(given)
    start = time.monotonic()
    done = _build(options)
    if all(part.right for part in done):
        folder, name, header = _folder(options), _name(options.dry_run), _header(options.dry_run)
        for part in options.part or _PARTS:
            print(f"\n---- {part} ----", flush=True)
            path = folder / f"{name}-{part}.json"
            done.append(_run(part, options, start + _LIMIT - time.monotonic(), path))
            if part != "bench":  # which writes for itself, as it goes
                outcome = {"right": done[-1].right, "words": done[-1].words, "seconds": done[-1].seconds}
                path.write_text(json.dumps({**header, **outcome, **done[-1].results}, indent=1) + "\n")
        print(f"\nresults: {folder}\n")
    print(f"{_table(done, options.dry_run)}\n{time.monotonic() - start:.0f} s in all")
    return 0 if all(part.right for part in done) else 1


if __name__ == "__main__":
    sys.exit(main())
