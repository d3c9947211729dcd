"""``python -m bench.gpu.benchmark``: bandwidth, times, host time, memory and the linear head, on a GPU."""

from __future__ import annotations

import argparse
import gc
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..about import about
from ..gates import Gate
from ..implementations import Case, all_cases, kernel_cases
from ..linear import LinearTime, linear_table
from ..memory import Remembered
from ..plan import shape_of
from ..samples import as_stored
from .baselines import HostTime, bandwidth, host_times, peak_memory
from .device import Device, gpu_facts
from .gates import all_gates, gate_summary, missed
from .linear import linear_times
from .measure import Rotation, Timed, failures_go_to, jobs_of, measure_case
from .plan import Group, default_groups, dry_groups, full_groups, narrowed, quick_groups
from .report import headline, time_table, times_as_json

_NOTES = """\
Medians of device events; the host queues calls ahead, so that none waits for its launch; inputs rotate, so that nothing
comes from L2; every output is compared with float64 first. `of the floor`: logits, gradient and targets once each, over
time, over copy bandwidth (forward alone: read-only bandwidth). `scaled`: grad_output 1/2. *: the planner's own choice.
x eager: against the fastest right eager formula. x compile: against torch.compile of the published formula in float32
arithmetic."""


class Run:
    """All measurements so far, and the file that they are written to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.dry, self.start = options, options.dry_run, time.monotonic()
        self.seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
        self.device = Device(self.dry)
        self.cases = all_cases() if options.full else kernel_cases()
        self.header: dict[str, Any] = {**about(self.seed, False), "dry_run": self.dry, "gpu": {"before": gpu_facts()}}
        self.bandwidth: dict[str, dict[str, Any]] = {}
        self.times: list[Timed] = []
        self.host: list[HostTime] = []
        self.memory: list[Remembered] = []
        self.linear: list[LinearTime] = []
        self.errors: list[str] = []  # failures that ended more than one job
        self.left_out: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def measure(self, groups: list[Group]) -> None:
        """Measure the most informative groups first, until the time is over; results are on disk after each step."""
        self.bandwidth = bandwidth(self.device, self.options.compile)
        self.write()
        self._group(groups[0])
        if not self.options.quick:
            self._baselines()
        for group in groups[1:]:
            self._group(group)
        self.header["gpu"]["after"] = gpu_facts(clocks_only=True)

    def _baselines(self) -> None:
        """Measure the host time and memory of calls, and the linear head."""
        for case in self._cases(self.options.losses or None):
            self._step(f"host time, {case.name}", partial(self._host, case))
        for case in self._cases(self.options.losses or None):
            self._step(f"memory, {case.name}", partial(self._memory, case))
        for loss in ("bce", "zlpr"):
            self._step(f"linear head, {loss}", partial(linear_times, loss, self.device, self.linear))
        print(f"\n{linear_table(self.linear)}", flush=True)

    def _cases(self, names: tuple[str, ...] | None) -> list[Case]:
        return [case for case in self.cases if names is None or case.name in names]

    @property
    def late(self) -> bool:
        """True if the time is over, so that no measurement begins."""
        return self.seconds > self.options.seconds

    def _step(self, what: str, measure: Callable[[], Any]) -> None:
        if self.late:
            self.left_out.append(what)
            return
        with failures_go_to(partial(self._note, what), self.device):
            measure()
        self.write()

    def _note(self, what: str, words: str) -> None:
        """Record a failure; a lack of memory counts as left out."""
        (self.left_out if words.startswith("OutOfMemory") else self.errors).append(f"{what}: {words}")

    def _group(self, group: Group) -> None:
        shape, before = str(group), len(self.times)
        if self.late:
            self.left_out.append(shape)
            return
        with failures_go_to(partial(self._note, shape), self.device):
            rotation = Rotation(group, self.device, self.seed)
            for case in self._cases(group.losses):
                self._step(f"{shape}, {case.name}", partial(self._case, group, case, rotation))
            del rotation
        self.device.give_back()
        self.header["gpu"].setdefault("during", {})[shape] = gpu_facts(clocks_only=True)
        print(f"\n{shape}\n{time_table(self.times[before:], self.bandwidth)}", flush=True)

    def _host(self, case: Case) -> None:
        self.host += host_times(case, self.device, self.seed)

    def _memory(self, case: Case) -> None:
        self.memory += peak_memory(case, self.device, self.seed)

    def _case(self, group: Group, case: Case, rotation: Rotation) -> None:
        jobs = jobs_of(group, case, rotation, self.device, self.options.triton)
        self.times += [job.timed for job in jobs]
        measure_case(case, jobs, rotation, self.device)

    def failures(self) -> list[str]:
        """Return our kernels that were wrong or did not run as planned, and the failures that ended a measurement."""
        wrong = [
            f"{t.case}, {shape_of(t.rows, t.labels)}, {t.dtype}, {t.implementation}, {t.mode}, {t.strategy}: {t.wrong}"
            for t in self.times
            if t.wrong
        ]
        return [
            *wrong,
            *(f"linear head, {t.loss}, {t.implementation}: {t.wrong}" for t in self.linear if t.wrong),
            *self.errors,
        ]

    def gates(self) -> dict[str, list[Gate]]:
        """Return every gate that the measurements so far decide, by kind."""
        return all_gates(self.times, self.bandwidth, self.host, self.memory)

    def write(self, indent: int | None = None) -> None:
        """Write the results so far, samples included; without an indent this takes half the time."""
        results = {
            **self.header,
            "seconds": self.seconds,
            "bandwidth": self.bandwidth,
            "times": times_as_json(self.times, self.bandwidth),
            "host": [{**as_stored(one), "median_us": one.median} for one in self.host],
            "memory": [as_stored(row) for row in self.memory],
            "linear": [one.as_json() for one in self.linear],
            "gates": [
                {"kind": kind, **asdict(gate), "passed": gate.passed}
                for kind, found in self.gates().items()
                for gate in found
            ],
            "failures": self.failures(),
            "left_out": self.left_out,
            "summary": self.summary(),
        }
        # The file is complete at any time.
        written = self.options.json.with_suffix(".tmp")
        written.write_text(json.dumps(results, indent=indent) + "\n")
        os.replace(written, self.options.json)

    def summary(self) -> str:
        """Return the short tables."""
        bandwidths = (
            f"{name} {one['bytes_per_second'] / 1e12:.3f} TB/s ({one['kernel']})"
            for name, one in self.bandwidth.items()
        )
        parts = [
            "bandwidth: " + ", ".join(bandwidths),
            headline(self.times, self.bandwidth, self.memory, self.dry),
            gate_summary(self.gates(), self.dry),
            linear_table(self.linear),
        ]
        if self.failures():
            parts.append("\n".join(f"WRONG: {failure}" for failure in self.failures()))
        if self.left_out:
            parts.append("left out, for lack of time or memory: " + "; ".join(self.left_out))
        return "\n\n".join(parts)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.benchmark", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="PATH", help="file for the results")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU: does it run?")
    parser.add_argument("--full", action="store_true", help="every dtype, size, mode and peer")
    parser.add_argument("--quick", action="store_true", help="only times of this package's kernels, in bfloat16")
    parser.add_argument("--losses", type=names, default=(), metavar="NAME,...", help="only these losses")
    parser.add_argument(
        "--labels", type=numbers, default=(), metavar="N,...", help="only shapes with these numbers of labels"
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--no-triton", dest="triton", action="store_false", help="only the CUDA kernels")
    parser.add_argument("--seconds", type=float, default=150.0, help="no case begins after this time")
    parser.add_argument("--seed", type=int, help="seed of the random data; default: a new one")
    return parser.parse_args(given)


def names(given: str) -> tuple[str, ...]:
    """Parse losses, as tables name them."""
    found = tuple(given.split(","))
    if unknown := set(found) - {case.name for case in all_cases()}:
        raise argparse.ArgumentTypeError(f"no loss is named {', '.join(sorted(unknown))}")
    return found


def numbers(given: str) -> tuple[int, ...]:
    """Parse numbers of labels."""
    return tuple(int(number) for number in given.split(","))


def _groups(options: argparse.Namespace) -> list[Group]:
    labels: tuple[int, ...] = ()
    if options.dry_run:  # has shapes of its own, so that --labels does not apply
        groups = [replace(g, losses=quick_groups()[0].losses) for g in dry_groups()] if options.quick else dry_groups()
    else:
        groups = full_groups() if options.full else quick_groups() if options.quick else default_groups()
        labels = options.labels
    return narrowed(groups, options.losses, labels, options.compile)


def main(given: list[str] | None = None) -> int:
    """Measure, write and print; return 1 if an output of ours was wrong."""
    options = _arguments(given)
    groups = _groups(options)
    print(_NOTES, flush=True)
    gc.disable()  # collected between losses
    run = Run(options)
    try:
        run.measure(groups)
    except Exception as error:  # a CUDA error, after which nothing runs
        run.errors.append(f"stopped: {type(error).__name__}: {error}")
    finally:
        run.write(indent=1)
    if not run.dry:
        print("\n".join(["", *missed(run.gates())]))
    print(f"\n{run.summary()}\n\n{run.seconds:.0f} s, seed {run.seed}")
    return 1 if run.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
