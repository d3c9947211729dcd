"""``python -m tests.machines`` runs a share of the tests as on other machines.

Each configuration is a pytest run of its own, in which this package's kernels, torch's operators or oneDNN's products
are limited to an instruction set, or the number of threads is set. ``--share`` makes two runs, each of several limits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import instruction_sets
from tests.run import Part, run, summary

ROOT = Path(__file__).resolve().parents[1]
FILES = ("values", "autograd", "linear", "compound", "parts", "build")
# Each run has some hundreds of tests, none of which calls a compiler.
PYTEST = ("-m", "pytest", "-q", *(f"tests/test_{name}.py" for name in FILES), "--brief=40")
WITHOUT_CUDA = ROOT / "build" / "without-cuda"
WHICH = """
from pathlib import Path
from mlloss_cuda import _backends, _extension
print(Path(_backends.__file__).parent, _extension.build_information()["cuda"] or "none")
"""


@dataclass(frozen=True)
class Configuration:
    """A stand-in for another machine: environment variables of other libraries, and options of the tests."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    kernels: str = ""  # instruction set of this package's CPU kernels; empty for this machine's best


EACH = (
    *(Configuration(f"kernels: {name}", kernels=name) for name in ("baseline", "x86_64_v3", "x86_64_v4")),
    *(Configuration(f"ATen: {name}", {"ATEN_CPU_CAPABILITY": name}) for name in ("default", "avx2")),
    *(Configuration(f"oneDNN: {name}", {"ONEDNN_MAX_CPU_ISA": name}) for name in ("SSE41", "AVX2", "AVX512_CORE")),
    *(Configuration(f"threads: {count}", {"OMP_NUM_THREADS": str(count)}) for count in (1, 2, 3)),
)
TOGETHER = (
    Configuration(
        "baseline, 1 thread",
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
        "baseline",
    ),
    Configuration(
        "x86-64-v3, 3 threads",
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "3"},
        "x86_64_v3",
    ),
)


def tested(configuration: Configuration) -> Part:
    """Run the share of the tests in a configuration."""
    part = Part(configuration.name)
    if configuration.kernels and configuration.kernels not in instruction_sets.usable():
        part.read(f"skipped: this machine or build has no {configuration.kernels}")
        return part
    threads = int(configuration.environment.get("OMP_NUM_THREADS", "1"))
    options = ["-n", "2" if threads == 1 else "1"]
    if configuration.kernels:
        options.append(f"--cpu-kernels={configuration.kernels}")
    return run([sys.executable, *PYTEST, *options], part.target, {**os.environ, **configuration.environment})


def tested_without_cuda() -> Part:
    """Build the package without CUDA in a folder of its own, and test that package instead of the source tree's."""
    part = Part("without CUDA")
    environment = {**os.environ, "CMAKE_ARGS": "-DMLLOSS_CUDA=OFF", "PYTHONPATH": str(WITHOUT_CUDA)}
    build = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(WITHOUT_CUDA)]
    part.status = subprocess.run(build, cwd=ROOT, env=environment, check=False).returncode
    found = subprocess.run([sys.executable, "-c", WHICH], cwd="/", env=environment, capture_output=True, text=True)
    if part.failed or found.stdout.split() != [str(WITHOUT_CUDA / "mlloss_cuda"), "none"]:
        part.status = part.status or 1
        print(f"expected the package without CUDA, got {found.stdout}{found.stderr}")
        return part
    # `pytest`, not `python -m pytest`, which would put the current folder first on the import path.
    return run(
        [str(Path(sys.executable).parent / "pytest"), "--import-mode=append", *PYTEST[2:], "-n", "2"],
        part.target,
        environment,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the configurations and print a summary; return 1 if a test failed in one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument("--share", action="store_true", help="make two runs, each of which differs in several settings")
    share = parser.parse_args(arguments).share
    parts = []
    for configuration in TOGETHER if share else EACH:
        print(f"\n---- {configuration.name}", flush=True)
        parts.append(tested(configuration))
    if not share:
        print("\n---- without CUDA", flush=True)
        parts.append(tested_without_cuda())
    print("\n" + "\n".join(summary("machines", parts)), flush=True)
    return int(any(part.failed for part in parts))


if __name__ == "__main__":
    sys.exit(main())
