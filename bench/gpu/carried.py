"""``python -m bench.gpu.carried --suffix <SUFFIX> --torch <folder>``: do libraries that are built here load elsewhere?

Checks, without that machine: that all three are there for its Python, which versions of the C and C++ libraries they
ask for, and that its torch defines whatever they take from torch. ``nm`` and ``objdump`` of binutils do the reading.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from .processes import ROOT

__all__ = ["faults_of"]

_NAMES = ("_C", "_cpu", "_cuda")
_MOST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29)}
_OF_TORCH = re.compile(r"torch|aoti|c10")


def _lines(*command: object) -> list[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def asked_for(library: Path) -> dict[str, tuple[int, ...]]:
    """The newest version of each system library that a library asks for."""
    found: dict[str, tuple[int, ...]] = {}
    for line in _lines("objdump", "-T", library):
        for name, version in re.findall(r"\b(GLIBC|GLIBCXX)_([\d.]+)", line):
            found[name] = max(found.get(name, ()), tuple(map(int, version.split("."))))
    return found


def _symbols(option: str, *libraries: Path) -> set[str]:
    """Names of dynamic symbols, without their versions."""
    found = (line.split()[-1].partition("@")[0] for line in _lines("nm", "-D", option, *libraries) if line.split())
    return set(found)


def faults_of(folder: Path, suffix: str, torch: Path | None) -> list[str]:
    """The reasons why the libraries of a folder do not load beside that torch, in words."""
    faults, there = [], {}
    for name in _NAMES:
        library = folder / f"{name}{suffix}"
        if not library.exists():
            faults.append(f"{library.name} is not there")
            continue
        there[name] = library
        for system, version in asked_for(library).items():
            if version > _MOST[system]:
                faults.append(f"{library.name} asks for {system} {'.'.join(map(str, version))}")
    if torch is None:
        return faults
    defined = _symbols(
        "--defined-only", *sorted(torch.glob("lib/lib*torch*.so")), *sorted(torch.glob("lib/libc10*.so"))
    )
    for name in set(there) - {"_C"}:  # which takes nothing from torch
        asked = {symbol for symbol in _symbols("--undefined-only", there[name]) if _OF_TORCH.search(symbol)}
        faults += [f"{there[name].name} asks for {symbol}" for symbol in sorted(asked - defined)]
    return faults


def main(given: list[str] | None = None) -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.carried", description=__doc__)
    parser.add_argument("--suffix", required=True, help="of the libraries: .cpython-312-x86_64-linux-gnu.so, say")
    parser.add_argument("--torch", type=Path, metavar="FOLDER", help="an installed torch of the version that is there")
    options = parser.parse_args(given)
    faults = faults_of(ROOT / "mlloss_cuda", options.suffix, options.torch)
    print(*(faults or ["nothing keeps the libraries from loading"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
