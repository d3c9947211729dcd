"""Parts of ``make gpu``, each a process with a time limit: build, sanitizers, benchmark."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .processes import ROOT, TIMED_OUT, Ended, Part, Started, environment_with, how, verdict_of
from .suite import Save

__all__ = ["bench", "build", "capability", "sanitize", "unusable"]

_FOUND_ERRORS = 9  # compute-sanitizer's exit status for errors, an option below
_GRACE = 10.0  # seconds for a process to report after its last case


# ---- build ----


def unusable() -> str:
    """Return why the present libraries do not load, or nothing. Another process imports them: an import would stay."""
    code = "import mlloss_cuda; print('cuda:', mlloss_cuda.backends()['cuda'].reason)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment_with(), capture_output=True, text=True, check=False
    )
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["no message"]
    return lines[-1].removeprefix("cuda:").strip()


def capability() -> str:
    """Return the GPU's architecture as nvcc names it, ``"90"``, without torch; empty if the driver shows no GPU."""
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    first = (done.stdout.split() or [""])[0].replace(".", "")
    return first if done.returncode == 0 and first.isdigit() else ""


def build(architecture: str, seconds: float) -> Part:
    """Build the libraries in place for one architecture, or as ``make build`` does; nothing is installed."""
    environment = {"CUDAARCHS": f"{architecture}-real"} if architecture else {}
    ended = Started("build", [sys.executable, "setup.py", "build_ext", "--inplace"], seconds, environment).wait()
    if ended.status:
        print(ended.tail(40))
        return Part("build", False, f"{how(ended.status)}, see {ended.log.relative_to(ROOT)}", ended.seconds)
    return Part("build", True, f"for sm_{architecture}" if architecture else "as make build does", ended.seconds)


# ---- sanitizers ----

_TOOLS = ("memcheck", "synccheck", "racecheck")
_UNSURE = "racecheck"  # was never run on these kernels yet: a person has to read its findings


def _sanitizer(tool: str) -> list[str]:
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS)),
        *("--kernel-name", "kns=mlloss"),  # the CUDA kernels, not torch's own
        *("--print-limit", "20", "--target-processes", "application-only"),
    ]


def _last_line(log: Path, words: str) -> str:
    """Return the last line with these words: "ERROR SUMMARY: 0 errors"."""
    found = [line for line in log.read_text(errors="replace").splitlines() if words in line]
    return found[-1].strip("= ").strip() if found else ""


def ended_tool(tool: str, ended: Ended) -> tuple[bool | None, str, dict[str, Any]]:
    """Return the verdict, its words, and the entry for the results."""
    summary, cases = _last_line(ended.log, "SUMMARY:"), _last_line(ended.log, " cases")
    # A tool that could not watch the program prints no summary, or has another exit status.
    clean = ended.status == 0 and bool(summary)
    if not clean:
        print(ended.tail(60 if tool == _UNSURE else 25))
    outcome = "clean" if clean else summary or how(ended.status)
    right = clean or (None if tool == _UNSURE or ended.status == TIMED_OUT else False)
    result = {"status": ended.status, "clean": clean, "summary": summary, "cases": cases, "seconds": ended.seconds}
    return right, f"{tool} {outcome}" + (f", {cases}" if cases else ""), result


def _small(seconds: float, seed: str) -> list[str]:
    """Return the command that the tools watch; it ends early, so that they have time to report."""
    limit = str(round(max(seconds - _GRACE, seconds / 2)))
    return [sys.executable, "-m", "bench.gpu.small", "--seconds", limit, "--seed", seed]


def sanitize(dry: bool, seconds: float, save: Save, tools: Sequence[str] = _TOOLS) -> Part:
    """Run small shapes under the tools, one after another; in a dry run, without the tools."""
    name, start, seed = "memcheck" if len(tools) == 1 else "sanitize", time.monotonic(), str(secrets.randbelow(2**31))
    if dry:
        ended = Started("small", [*_small(seconds, seed), "--dry-run"], seconds, {}).wait()
        words = "ran without the tools" if ended.status == 0 else how(ended.status)
        return Part(name, ended.status == 0, words, ended.seconds)
    if shutil.which("compute-sanitizer") is None:
        return Part(name, False, "compute-sanitizer is not on the PATH", 0.0)
    # Each tensor has its own allocation, or an access past its end would land in the next tensor.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    found: dict[str, tuple[bool | None, str, dict[str, Any]]] = {}
    for i, tool in enumerate(tools):
        share = (start + seconds - time.monotonic()) / (len(tools) - i)
        ended = Started(tool, [*_sanitizer(tool), *_small(share, seed)], share, alone).wait()
        found[tool] = ended_tool(tool, ended)
        save({done: result for done, (_, _, result) in found.items()})
    results = {tool: result for tool, (_, _, result) in found.items()}
    words = "; ".join(outcome for _, outcome, _ in found.values())
    return Part(name, verdict_of([right for right, _, _ in found.values()]), words, time.monotonic() - start, results)


# ---- benchmark ----


def bench(dry: bool, options: Sequence[str], seconds: float, path: Path) -> Part:
    """Run the benchmark, which writes ``path`` as it goes and stops at the end of a case."""
    stop = str(round(max(seconds - _GRACE, seconds / 2)))
    command = [sys.executable, "-m", "bench.gpu.benchmark", "--json", str(path), "--seconds", stop, *options]
    command += ["--dry-run"] if dry else []
    path.unlink(missing_ok=True)  # the file of an earlier run
    ended = Started("bench", command, seconds, {}).wait()
    print(ended.log.read_text(errors="replace"))
    if not path.exists():
        return Part("bench", False, how(ended.status), ended.seconds)
    results = json.loads(path.read_text())
    met = sum(gate["passed"] for gate in results["gates"])
    words = f"{met} of {len(results['gates'])} gates met" if not dry else f"{len(results['times'])} meaningless figures"
    if ended.status:
        words += f"; {how(ended.status)}, {len(results['failures'])} wrong"
    return Part("bench", ended.status == 0, words, ended.seconds)
