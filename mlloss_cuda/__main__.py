"""``python -m mlloss_cuda info``: versions, devices, backends and launch plans."""

from __future__ import annotations

import argparse
import platform

import torch

from . import _backends, _extension
from ._version import __version__

_DEVICES = ("A100", "H100", "H200", "B200", "RTX 5090")


def _shape(text: str) -> tuple[int, int]:
    rows, _, labels = text.partition("x")
    if not (rows.isdecimal() and labels.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected ROWSxLABELS, such as 512x131072, got {text!r}")
    return int(rows), int(labels)


def _print_versions() -> None:
    print(f"mlloss_cuda {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    built = _extension.build_information()
    if built:
        cuda = f"nvcc {built['cuda']} for {built['cuda_architectures']}" if built["cuda"] else "no CUDA"
        print(f"built with {built['compiler']} for {built['cpu']}; {cuda}")


def _print_devices() -> None:
    print(f"devices: CPU ({platform.machine()}, {torch.get_num_threads()} threads)", end="")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        print(f", {properties.name} (sm_{properties.major}{properties.minor})", end="")
    print()


def _print_backends() -> None:
    print("backends:")
    for name, status in _backends.backends().items():
        print(f"  {name:10} {'usable' if status.usable else 'not usable: ' + status.reason}")


def _print_compounds() -> None:
    listed = ", ".join(_extension.listed_compounds()) or "none"
    print(f"sums of losses in one pass: cpu and triton any sum of element-wise and row losses; cuda {listed}")


def _print_plans(rows: int, labels: int, dtype: str) -> None:
    plans = _extension.launch_plan
    if plans is None:
        print("launch plans: the compiled extension is not installed")
        return
    print(f"launch plans, {rows} x {labels} {dtype}, forward with gradient; speeds are predictions, none was measured:")
    for kind, grouping in (("element-wise losses", "element"), ("row-wise losses", "samples")):
        for device in _DEVICES:
            plan = plans(rows, labels, dtype, grouping, device=device)
            print(f"  {kind}, {device}: {plan['forward']}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m mlloss_cuda", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="versions, devices, backends, and the launch plan for a shape")
    info.add_argument("--shape", type=_shape, metavar="ROWSxLABELS", help="show the CUDA launch plans of this shape")
    info.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "float64"))
    given = parser.parse_args(arguments)
    _print_versions()
    _print_devices()
    _print_backends()
    _print_compounds()
    if given.shape:
        rows, labels = given.shape
        _print_plans(rows, labels, given.dtype)


if __name__ == "__main__":
    main()
