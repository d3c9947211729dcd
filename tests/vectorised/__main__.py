"""Compile the CPU kernels for each instruction set, and fail if a loop marked `#pragma omp simd` is not vectorised.

python -m tests.vectorised
python -m tests.vectorised --losses all --isas x86_64_v4
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .assembly import REGISTERS, Instances, instances_of
from .source import Loop, marked_copy

ROOT = Path(__file__).resolve().parents[2]

# A share of the losses that holds every marked loop; all of them take twice as long.
LOSSES = ("zlpr", "bce_with_logits", "dice", "decoupled_softmax", "symmetric_kl")


class KnownScalar(NamedTuple):
    """Instances of a loop that GCC does not vectorise, for any instruction set."""

    loop: str
    functions: str  # a pattern of their names
    reason: str


EXCEPTIONS: tuple[KnownScalar, ...] = ()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.vectorised", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree whose csrc/cpu is compiled")
    parser.add_argument("--losses", nargs="+", default=LOSSES, help="names in csrc/losses/registry.h, or all")
    parser.add_argument("--isas", nargs="+", default=tuple(REGISTERS), choices=tuple(REGISTERS))
    return parser.parse_args()


def why_not(compiler: str | None) -> str | None:
    """Return why the check cannot run here; None if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"it reads x86-64 assembly, and this is {platform.machine()}"
    if compiler is None:
        return "no C++ compiler was found"
    macros = subprocess.run([compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True).stdout
    if "__GNUC__" not in macros or "__clang__" in macros:
        return f"{compiler} is not GCC, the compiler that the kernels are tuned for"
    return None


def flags_of(isa: str, cmake: str) -> list[str]:
    """Return the flags that CMakeLists.txt gives to an instruction set's kernels."""
    common = re.findall(r"set\(MLLOSS_(?:KERNEL|GCC)_FLAGS ([^)]*)\)", cmake)
    own = re.search(rf"set\(MLLOSS_ISA_FLAGS_{isa} ([^)]*)\)", cmake)
    if len(common) != 2 or (not own and isa != "baseline"):
        raise ValueError(f"CMakeLists.txt has no flags for {isa}")
    return [*" ".join(common).split(), *(own[1].split() if own else [])]


def unit_text(registry: str, losses: Sequence[str]) -> str:
    """Return the source of a unit that holds the kernels of some losses."""
    functors = dict(re.findall(r"X\((\w+), (\w+)\)", registry))
    wanted = list(functors) if list(losses) == ["all"] else losses
    listed = " ".join(f"X({name}, {functors[name]})" for name in wanted)
    return (
        '#include "../losses/registry.h"\n#undef MLLOSS_FOR_EACH_LOSS\n'
        f'#define MLLOSS_FOR_EACH_LOSS(X) {listed}\n#include "kernels.cpp"\n'
    )


def assembly_of(compiler: str, unit: Path, flags: list[str], isa: str) -> str:
    """Compile a unit of marked sources to assembly."""
    command = [
        compiler,
        "-std=c++17",
        "-DNDEBUG",
        "-fPIC",
        "-fvisibility=hidden",
        "-fvisibility-inlines-hidden",
        *flags,
    ]
    defined = [f"-DMLLOSS_ISA={isa}", f"-DMLLOSS_TABLE=table_{isa}"]
    done = subprocess.run([*command, *defined, "-S", "-o", "-", str(unit)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return done.stdout


def problems_of(
    loops: list[Loop], found: dict[str, Instances], isa: str, exceptions: Sequence[KnownScalar] = ()
) -> list[str]:
    """Return the loops that are not vectorised or not compiled, and the exceptions that no longer are any."""
    problems = []
    for name in map(str, loops):
        instances = found.get(name, Instances())
        known = [e for e in exceptions if e.loop == name]
        scalar = [f for f in instances.scalar if not any(re.search(e.functions, f) for e in known)]
        if not instances.vectorised and not instances.scalar:
            problems.append(f"{isa}: {name} is not in the kernels of these losses")
        if scalar:
            total = instances.vectorised + len(instances.scalar)
            problems.append(
                f"{isa}: {name} is not vectorised in {len(scalar)} of {total} instances, first in {scalar[0]}"
            )
        problems += [
            f"{isa}: {name} is vectorised in {e.functions}, so EXCEPTIONS should not list it"
            for e in known
            if not any(re.search(e.functions, f) for f in instances.scalar)
        ]
    return problems


def main() -> int:
    given = arguments()
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    reason = why_not(compiler)
    if compiler is None or reason:
        print(f"skipped: {reason}")
        return 0
    cmake = (given.source / "CMakeLists.txt").read_text()
    registry = (given.source / "csrc" / "losses" / "registry.h").read_text()
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        loops = marked_copy(given.source, Path(folder))
        unit = Path(folder) / "csrc" / "cpu" / "unit.cpp"
        unit.write_text(unit_text(registry, given.losses))
        for isa in given.isas:
            found = instances_of(assembly_of(compiler, unit, flags_of(isa, cmake), isa), isa)
            problems += problems_of(loops, found, isa, EXCEPTIONS)
            vectorised = sum(i.vectorised for i in found.values())
            print(f"{isa}: {len(found)} of {len(loops)} loops, {vectorised} vectorised instances", flush=True)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
