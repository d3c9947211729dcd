"""``python -m bench.gpu``, which ``make gpu`` runs: tests, sanitizers, benchmark and profile on a GPU in ten minutes.

``--visit right`` and ``--visit fast`` are two commands for a machine that is available for fifteen minutes in all.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .facts import facts
from .parts import bench, build, capability, sanitize
from .processes import ROOT, Part, clear, end_all, keep_logs
from .profile import profile
from .suite import Suite, large, tests

_SHARES = {  # each part's share of the time
    "first": 2.0,
    "tests": 4.0,
    "large": 0.5,
    "memcheck": 1.0,
    "sanitize": 2.0,
    "bench": 3.0,
    "profile": 1.5,
}
_PARTS = ("tests", "large", "sanitize", "bench", "profile")
_LIMIT = 570.0
_REPORT = 5.0  # seconds, kept for the report
_FACTS = 90.0  # the most seconds for the first import of torch and one step
_MARKS = {True: "ok  ", False: "FAIL", None: "?   "}
# The defaults of each visit; an option on the command line takes precedence.
_VISITS: dict[str, dict[str, Any]] = {
    "right": {"part": ["tests", "large", "memcheck"], "limit": 270.0, "brief": 40, "workers": 10, "triton": False},
    "fast": {"part": ["bench", "profile"], "limit": 430.0, "quick": True, "compile": False, "triton": False},
}


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--visit", choices=_VISITS, help="the parts that a short visit has time for; builds nothing")
    parser.add_argument("--part", action="append", choices=_SHARES, help="only this part (may be repeated)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="time limit for everything; default 570")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, results to a temporary folder")
    parser.add_argument("--full", action="store_true", help="benchmark every dtype, size, mode and peer")
    parser.add_argument("--quick", action="store_true", default=None, help="benchmark only this package's kernels")
    parser.add_argument("--losses", metavar="NAME,...", help="benchmark only these, as tables name them")
    parser.add_argument("--labels", metavar="N,...", help="benchmark only shapes with these numbers of labels")
    parser.add_argument("--no-compile", dest="compile", action="store_false", default=None, help="no torch.compile")
    parser.add_argument("--no-triton", dest="triton", action="store_false", default=None, help="only the CUDA kernels")
    parser.add_argument("--brief", type=int, metavar="N", help="run one in N of the largest tests' combinations")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that run tests; default 3 for 4 cores")
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        metavar="ID",
        help="only this test, waiting for each launch (may be repeated)",
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: bench/results; logs go there too")
    parser.add_argument("--no-build", action="store_true", help="use the present libraries, if they load")
    options = parser.parse_args(given)
    defaults = {"part": list(_PARTS), "limit": _LIMIT, "quick": False, "compile": True, "triton": True}
    if options.test:
        options.part = options.part or ["tests"]
    if options.visit:
        defaults |= _VISITS[options.visit]
        options.no_build = True
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _folder(options: argparse.Namespace) -> Path:
    if options.dry_run:
        # A dry run never writes beside real results.
        return Path(tempfile.mkdtemp(prefix="mlloss-dry-run-"))
    folder: Path = options.results or ROOT / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _suite(options: argparse.Namespace, first: bool) -> Suite:
    only = tuple(options.test)
    return Suite(options.dry_run, first, options.triton, options.brief, options.workers, only)


def _bench_options(options: argparse.Namespace) -> list[str]:
    given = [f"--{name}" for name in ("full", "quick") if getattr(options, name)]
    given += [f"--no-{name}" for name in ("compile", "triton") if not getattr(options, name)]
    for name in ("losses", "labels"):
        given += [f"--{name}", value] if (value := getattr(options, name)) else []
    return given


def _run(part: str, options: argparse.Namespace, seconds: float, path: Path, header: dict[str, Any]) -> Part:
    """Run one part in its time; its results so far are on disk at any time."""
    dry, start = options.dry_run, time.monotonic()

    def save(results: dict[str, Any], **outcome: Any) -> None:
        path.write_text(json.dumps({**header, **outcome, **results}, indent=1) + "\n")

    def unfinished(results: dict[str, Any]) -> None:
        save(results, right=None, words="not finished", seconds=time.monotonic() - start)

    if part == "bench":  # writes its own file as it goes
        return bench(dry, _bench_options(options), seconds, path)
    if part in ("first", "tests"):
        done = tests(_suite(options, part == "first"), seconds, unfinished)
    elif part == "large":
        done = large(dry, seconds, few=bool(options.visit))
    elif part == "profile":
        done = profile(dry, seconds, path)
    else:
        done = sanitize(dry, seconds, unfinished, *([("memcheck",)] if part == "memcheck" else []))
    save(done.results, right=done.right, words=done.words, seconds=done.seconds)
    return done


def _ready(options: argparse.Namespace, done: list[Part], end: float) -> dict[str, Any] | None:
    """Return the facts, once libraries load, the present ones or new ones; None if none do."""
    dry, found = options.dry_run, {"unusable": "not checked"}
    if options.no_build:
        step, found = facts(dry, _FACTS)
        if found["unusable"]:
            print(f"the present libraries do not load: {found['unusable']}")
        else:
            done.append(step)
            return found
    architecture = capability()
    if not architecture and not dry:
        raise SystemExit("make gpu: the driver shows no GPU here. `make gpu DRY=1` walks through it on the CPU.")
    print("building ...", flush=True)
    # A build without a GPU is for every architecture, and has its own time.
    done.append(build(architecture, (end - time.monotonic()) / 2 if architecture else 600.0))
    if not done[-1].right:
        return None
    step, found = facts(dry, _FACTS)
    done.append(step)
    return None if found["unusable"] else found


def _table(done: list[Part], dry: bool) -> str:
    title = "DRY RUN on the CPU: these figures are of no GPU\n" if dry else ""
    lines = [f"{p.name:9} {_MARKS[p.right]} {p.seconds:5.0f} s  {p.words}" for p in done]
    return title + "\n".join(lines)


def _run_all(options: argparse.Namespace, done: list[Part], folder: Path, found: dict[str, Any], end: float) -> None:
    """Run the parts after the build, each in its share of the time that is left."""
    for i, part in enumerate(options.part):
        print(f"\n---- {part} ----", flush=True)
        path = folder / f"{found['name']}-{part}.json"
        share = _SHARES[part] / sum(_SHARES[later] for later in options.part[i:])
        done.append(_run(part, options, max(1.0, end - time.monotonic()) * share, path, found["header"]))
        if options.results:
            keep_logs(folder)
    print(f"\nresults: {folder}\n")


def main(given: list[str] | None = None) -> int:
    """Build, run the parts, write results, print the short table; return 1 if something is wrong, 2 if unfinished."""
    options = _arguments(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    start = time.monotonic()
    folder = _folder(options)
    done: list[Part] = []
    clear()
    try:
        found = _ready(options, done, start + options.limit)
        if found is not None:
            # A build without a GPU takes no time from the parts.
            begin = start if options.no_build or not options.dry_run else time.monotonic()
            _run_all(options, done, folder, found, begin + options.limit - _REPORT)
    finally:
        end_all()
        if options.results:
            keep_logs(folder)
    print(f"{_table(done, options.dry_run)}\n{time.monotonic() - start:.0f} s in all")
    rights = [part.right for part in done]
    return 1 if False in rights else 2 if None in rights else 0


if __name__ == "__main__":
    sys.exit(main())
