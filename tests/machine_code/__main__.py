"""python -m tests.machine_code: prints figures. To be continued."""

import argparse
import os
from pathlib import Path

from .build import Unit, build
from .figures import kernels_of
from .kernels import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machine_code", description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT, help="the tree whose csrc/ is compiled")
    parser.add_argument("--dtypes", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--architectures", nargs="*")
    parser.add_argument("--show", help="print the instructions of this path too: 'streaming<Zlpr> gradient, csr'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    a = parser.parse_args()
    wanted = [
        Unit(d, arch) for d in a.dtypes for arch in ARCHITECTURES[d] if not a.architectures or arch in a.architectures
    ]
    for unit in build(a.source, wanted, ROOT / "build" / "machine_code", a.jobs):
        for k in kernels_of(unit):
            print(
                f"{k.architecture} {k.dtype} {k.title}: {k.resources}, {k.instructions} instructions, local {k.local}"
            )
            for name, path in k.paths.items():
                if path:
                    print(f"    {name:30} {path.issued:7.2f} {path.special:6.2f}  {dict(path.accesses())}")
                    if f"{k.title} {name}" == a.show:
                        for i in path.instructions:
                            guard = f"@{i.guard}" if i.guard else ""
                            print(f"        {i.address:6x} {guard:>5} {i.opcode} {i.operands}")
                else:
                    print(f"    {name:30} not found")


main()
