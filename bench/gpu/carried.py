"""``python -m bench.gpu.carried --suffix <SUFFIX> --torch <folder>``: do libraries that are built here load elsewhere?

It checks, without the other machine, that all three libraries exist for its Python, that they need no newer C and C++
libraries, and that its torch defines the symbols that they use. It reads them with ``nm`` and ``objdump`` of binutils.
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
_TORCH_SYMBOL = re.compile(r"torch|aoti|c10")


def _lines(*command: object) -> list[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def needed_versions(library: Path) -> dict[str, tuple[int, ...]]:
    """Return the newest version of each system library that a library needs."""
    found: dict[str, tuple[int, ...]] = {}
    for line in _lines("objdump", "-T", library):
        for name, version in re.findall(r"\b(GLIBC|GLIBCXX)_([\d.]+)", line):
            found[name] = max(found.get(name, ()), tuple(map(int, version.split("."))))
    return found


def _symbols(option: str, *libraries: Path) -> set[str]:
    """Return the names of dynamic symbols without their versions."""
    found = (line.split()[-1].partition("@")[0] for line in _lines("nm", "-D", option, *libraries) if line.split())
    return set(found)


def faults_of(folder: Path, suffix: str, torch: Path | None) -> list[str]:
    """Return the reasons, in words, why the libraries of a folder do not load beside that torch."""
    faults, there = [], {}
    for name in _NAMES:
        library = folder / f"{name}{suffix}"
        if not library.exists():
            faults.append(f"{library.name} is missing")
            continue
        there[name] = library
        for system, version in needed_versions(library).items():
            if version > _MOST[system]:
                faults.append(f"{library.name} needs {system} {'.'.join(map(str, version))}")
    if torch is None:
        return faults
    defined = _symbols(
        "--defined-only", *sorted(torch.glob("lib/lib*torch*.so")), *sorted(torch.glob("lib/libc10*.so"))
    )
    for name in set(there) - {"_C"}:  # _C uses no symbol of torch
        used = {symbol for symbol in _symbols("--undefined-only", there[name]) if _TORCH_SYMBOL.search(symbol)}
        faults += [f"{there[name].name} needs {symbol}" for symbol in sorted(used - defined)]
    return faults


def main(given: list[str] | None = None) -> int:
    """Print the faults; return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.carried", description=__doc__)
    parser.add_argument("--suffix", required=True, help="of the libraries, such as .cpython-312-x86_64-linux-gnu.so")
    parser.add_argument(
        "--torch", type=Path, metavar="FOLDER", help="an installed torch of the other machine's version"
    )
    options = parser.parse_args(given)
    faults = faults_of(ROOT / "mlloss_cuda", options.suffix, options.torch)
    print(*(faults or ["the libraries load"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
