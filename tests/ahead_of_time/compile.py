"""``python -m tests.ahead_of_time.compile TARGET WHOLE PIECE PIECES [FOLDER]`` compiles a piece of a target's kernels.

WHOLE is 1 for all calls, and 0 for the main calls. The output is one line of JSON. The engine's calls run on CPU
tensors and compile, instead of launching, for a GPU that is not present. With FOLDER, the Triton in that folder
compiles. A process compiles for one target, because Triton's active driver cannot be changed again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

import mlloss_cuda
from mlloss_cuda import BackendStatus, _backends, _triton
from mlloss_cuda._triton import launch
from mlloss_cuda._triton.tuning import DeviceFacts, family_of

from .calls import Call, main_calls, more_calls

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}
# Targets for which all calls are compiled; for the others, the main calls.
ALL_CALLS = ("sm_90",)


@dataclass(frozen=True)
class Compiled:
    """Facts from the machine code of one specialisation of a kernel."""

    hash: str  # the specialisation's key in Triton's cache
    kernel: str
    call: str
    registers: int
    spills: int  # instructions (NVIDIA) or registers (AMD) that move to memory and back
    wide_loads: int  # of 16 bytes
    wide_stores: int


class _Driver:
    """A driver for a device that Triton compiles for and that is not present."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _disassembled(cubin: bytes) -> tuple[str, int]:
    """Return instructions and registers, by the disassembler in Triton's package."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, usage = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-sass", "-res-usage")
        )
    found = re.search(r"REG:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump reports no registers: {usage!r}")
    return sass, int(found[1])


def _read_nvidia(asm: Any) -> tuple[int, int, int, int]:
    sass, registers = _disassembled(asm["cubin"])
    spills = len(re.findall(r"\b(?:STL|LDL)\b", sass))
    loads, stores = (len(re.findall(rf"\b{op}\.E(?:\.\w+)*\.128", sass)) for op in ("LDG", "STG"))
    return registers, spills, loads, stores


def _read_amd(asm: Any) -> tuple[int, int, int, int]:
    text = asm["amdgcn"]

    def number_of(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        if found is None:
            raise ValueError(f"the assembly has no {name}")
        return int(found[1])

    loads, stores = (len(re.findall(rf"(?:global|buffer)_{op}_(?:dwordx4|b128)", text)) for op in ("load", "store"))
    spills = number_of("vgpr_spill_count") + number_of("private_segment_fixed_size")
    return number_of("vgpr_count"), spills, loads, stores


def _compile(target: GPUTarget, calls: Iterable[Call]) -> list[Compiled]:
    """Compile all kernels that the calls would launch."""
    triton.runtime.driver.set_active(_Driver(target))
    compiled: dict[str, Compiled] = {}
    current = ""

    def run(kernel: Any, programs: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        made = kernel.warmup(*arguments, grid=(programs,), **options)
        if made.hash not in compiled:
            read = _read_nvidia if target.backend == "cuda" else _read_amd
            compiled[made.hash] = Compiled(made.hash, kernel.__name__, current, *read(made.asm))

    capability = target.arch if target.backend == "cuda" else None
    rdna = target.backend == "hip" and target.warp_size == 32
    facts = DeviceFacts("rdna" if rdna else family_of(target.backend, capability), 108, 40 << 20)
    launch.run = run
    launch._facts_of = lambda tensor: facts
    _triton.register("CPU")
    _backends.add_engine("triton", _backends.Engine(lambda: BackendStatus(True, ""), ("cpu",), _triton.NAMESPACE))
    with mlloss_cuda.use_backend("triton"):
        for current, call in calls:  # noqa: B007
            call()
    return list(compiled.values())


def main(target: str, whole: str, piece: str, pieces: str, folder: str = "") -> None:
    """Compile every ``pieces``-th call, and print Triton's version and what was compiled as one line of JSON."""
    if folder and not Path(triton.__file__).is_relative_to(Path(folder).resolve()):
        raise ImportError(f"expected Triton from {folder}, but {triton.__file__} is imported")
    calls = [*main_calls(), *(more_calls() if int(whole) else ())]
    compiled = _compile(TARGETS[target], islice(calls, int(piece), None, int(pieces)))
    print(json.dumps({"triton": triton.__version__, "compiled": [asdict(c) for c in compiled]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
