"""Compilation and disassembly of the kernels: one translation unit for one architecture at a time."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

# The flags of CMake's Release build.
FLAGS = ("-O3", "-DNDEBUG", "-std=c++17", "-cubin", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage")

KEPT_BUILDS = 4

_COMMENT = re.compile(r"//[^\n]*")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class MissingToolError(RuntimeError):
    """nvcc or nvdisasm is missing."""


class ChangedError(RuntimeError):
    """The sources changed during the compilation."""


@dataclass
class Resources:
    """The resources of a kernel, as ptxas reports them."""

    registers: int = 0
    shared: int = 0
    stack: int = 0
    spills: int = 0


@dataclass
class Unit:
    """One translation unit for one architecture."""

    dtype: str
    architecture: str
    sass: str = ""
    resources: dict[str, Resources] = field(default_factory=dict)  # by symbol

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.architecture}"


def find_tool(name: str) -> str:
    """Return the path of a tool of the CUDA toolkit, or of pip's packages of it."""
    homes = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ]
    packages = [str(p) for p in sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*"))]
    folders = [str(Path(home) / "bin") for home in [*homes, *packages, "/usr/local/cuda"]]
    if name == "nvcc" and "CUDACXX" in os.environ:
        return os.environ["CUDACXX"]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    if not found:
        raise MissingToolError(f"{name} was found neither in PATH nor in CUDA_HOME nor among pip's packages")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def nvcc_release() -> str:
    match = re.search(r"release (\d+\.\d+)", run(find_tool("nvcc"), "--version").stdout)
    return match[1] if match else "unknown"


def parse_log(log: str) -> dict[str, Resources]:
    """Return the resources by symbol, from ptxas's log."""
    found: dict[str, Resources] = {}
    current = Resources()
    for line in log.splitlines():
        if match := _FUNCTION.search(line):
            current = found.setdefault(match[1], Resources())
        if match := _STACK.search(line):
            current.stack, current.spills = int(match[1]), int(match[2]) + int(match[3])
        if match := _USED.search(line):
            current.registers = int(match[1])
            shared = _SHARED.search(line)
            current.shared = int(shared[1]) if shared else 0
    return found


def demangle(symbols: list[str]) -> dict[str, str]:
    if not symbols:
        return {}
    return dict(zip(symbols, run("c++filt", *symbols).stdout.splitlines(), strict=True))


def _sources(source: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((source / "csrc").rglob("*")):
        if path.is_file() and "cpu" not in path.relative_to(source).parts:
            yield str(path.relative_to(source)), path.read_text()


def sources_digest(source: Path) -> str:
    """Return a digest of the kernels' sources that does not change with comments and line breaks."""
    digest = hashlib.sha256()
    for name, text in _sources(source):
        digest.update(f"{name} {' '.join(_COMMENT.sub('', text).split())}".encode() + b"\0")
    return digest.hexdigest()[:12]


def _key(source: Path, nvcc: str, disassembler: str) -> str:
    """Return a digest of everything that the machine code depends on."""
    digest = hashlib.sha256()
    for tool in (nvcc, disassembler):
        digest.update(run(tool, "--version").stdout.encode())
    digest.update(repr((FLAGS, list(_sources(source)))).encode())
    return digest.hexdigest()[:16]


def _compile(source: Path, unit: Unit, cache: Path, nvcc: str, disassembler: str) -> Unit:
    stem = cache / f"{unit.dtype}.{unit.architecture}"
    cubin, log, sass = (stem.parent / f"{stem.name}.{suffix}" for suffix in ("cubin", "log", "sass"))
    if not sass.exists():
        file = source / "csrc" / "cuda" / "host" / f"kernels_{unit.dtype}.cu"
        done = run(nvcc, *FLAGS, f"-arch={unit.architecture}", "-o", str(cubin), str(file))
        log.write_text(done.stderr)
        # The last step is a renaming: a file that exists is complete.
        partial = stem.parent / f"{stem.name}.partial"
        partial.write_text(run(disassembler, "-c", str(cubin)).stdout)
        partial.rename(sass)
    unit.sass, unit.resources = sass.read_text(), parse_log(log.read_text())
    return unit


def _prune(cache: Path, used: Path) -> None:
    """Delete all but the latest builds."""
    folders = sorted((f for f in cache.iterdir() if f != used), key=lambda f: f.stat().st_mtime)
    for folder in folders[:-KEPT_BUILDS]:
        shutil.rmtree(folder, ignore_errors=True)


def build(source: Path, wanted: list[Unit], cache: Path, jobs: int) -> list[Unit]:
    """Return the units filled in, from the cache if the sources are the same."""
    nvcc, disassembler = find_tool("nvcc"), find_tool("nvdisasm")
    key = _key(source, nvcc, disassembler)
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    _prune(cache, used=folder)

    def one(unit: Unit) -> Unit:
        made = _compile(source, unit, folder, nvcc, disassembler)
        print(f"  {unit.dtype} {unit.architecture}", file=sys.stderr)
        return made

    with ThreadPoolExecutor(jobs) as pool:
        made = list(pool.map(one, wanted))
    if _key(source, nvcc, disassembler) != key:
        shutil.rmtree(folder)  # it mixes two versions of the sources
        raise ChangedError(f"{source}: changed while it was compiled; try again")
    return made
