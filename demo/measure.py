"""Time and peak memory of a loss and its gradient: fused, eager PyTorch, torch.compile.

All implementations get the same logits. Eager PyTorch and torch.compile need dense targets: those are made
beforehand, and neither their time nor their memory counts.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import formulas, give_memory_back, keep_memory, trim_memory
from bench.memory import Meter
from mlloss_cuda import CSRTargets, LinearLoss

IMPLEMENTATIONS = ("fused", "eager", "compile")

# --- plain PyTorch, as one would write it well ----------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A formula of plain PyTorch, run eagerly and by torch.compile."""

    function: Callable[[Tensor, Tensor], Tensor]
    target_dtype: torch.dtype  # the dtype that suits the formula best


PEERS = {
    "BCE": Peer(formulas.bce, torch.float32),
    "focal": Peer(formulas.focal, torch.float32),
    "Dice": Peer(formulas.dice, torch.float32),
    "ZLPR": Peer(formulas.zlpr_by_softplus, torch.bool),
}


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Measurement:
    """Figures by implementation; None for one that could not run."""

    ms: dict[str, float | None] = field(default_factory=dict)
    peak_mb: dict[str, float | None] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)  # the gradient's, relative to float64


class _OutOfTimeError(Exception):
    """Compilation takes longer than its time limit."""


@dataclass
class Compiled:
    """The plain formulas by torch.compile: all of them, or none and the reason."""

    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


def compile_formulas(logits: Tensor, targets: CSRTargets, seconds: float) -> Compiled:
    """Compile every loss's plain formula, and give up on all of them if they take more than ``seconds`` together.

    All or none: a table with some of them would favour losses whose formula compiles slowly.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # starting processes that compile takes longer here than compiling the formulas
    found, start = Compiled(), time.perf_counter()
    for name, peer in PEERS.items():
        compiled = torch.compile(peer.function, dynamic=False, fullgraph=True)
        dense = targets.to_dense().to(peer.target_dtype)
        try:
            with _limit(seconds - (time.perf_counter() - start)):
                _step(functools.partial(compiled, logits, dense), logits)
        except Exception as error:  # no time, no C++ compiler, no Triton: the demo goes on without torch.compile
            first_line = (str(error).strip().splitlines() or [""])[0][:120]
            late = time.perf_counter() - start >= seconds
            found.functions.clear()
            found.reason = (
                f"four formulas took more than their {seconds:.0f} s; --minutes gives more"
                if late
                else f"{type(error).__name__} for {name}: {first_line}"
            )
            break
        found.functions[name] = compiled
    found.seconds = time.perf_counter() - start
    return found


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise an exception in this block when the seconds are over, if the system has such a clock."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    # Repeatedly, since an exception that is raised in one of the interpreter's callbacks is lost.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(
    name: str,
    loss: nn.Module,
    logits: Tensor,
    targets: CSRTargets,
    *,
    compiled: Callable[[Tensor, Tensor], Tensor] | None,
    rounds: int,
    seconds: float,
) -> Measurement:
    """Take medians over interleaved rounds, so that a noisy moment hits every implementation alike."""
    peer = PEERS[name]
    dense = targets.to_dense().to(peer.target_dtype)
    result = Measurement()
    device = logits.device
    calls: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: loss(logits, targets),
        "eager": lambda: peer.function(logits, dense),
    }
    if compiled is not None:
        calls["compile"] = functools.partial(compiled, logits, dense)

    exact = _gradient_float64(peer.function, logits, dense)
    for implementation, call in calls.items():
        difference = _step(call, logits).double() - exact
        result.error[implementation] = (difference.norm() / exact.norm()).item()

    times: dict[str, list[float]] = {implementation: [] for implementation in calls}
    deadline = time.perf_counter() + seconds
    for round_number in range(2 + rounds):  # two to warm up
        if round_number > 4 and time.perf_counter() > deadline:
            break
        for implementation, call in calls.items():
            milliseconds = _time(functools.partial(_step, call, logits), device)
            if round_number >= 2:
                times[implementation].append(milliseconds)
    for implementation in IMPLEMENTATIONS:
        values = times.get(implementation)
        result.ms[implementation] = statistics.median(values) if values else None
        own = functools.partial(_step, calls[implementation], logits) if implementation in calls else None
        result.peak_mb[implementation] = None if own is None else _peak_mb(own, device)
    return result


@dataclass
class HeadMeasurement:
    """Forward and backward of the last layer and its loss: as one module, and as two."""

    ms: dict[str, float]
    peak_mb: dict[str, float | None]  # beyond parameters, features and targets; gradients are included


def measure_head(head: LinearLoss, features: Tensor, targets: CSRTargets, rounds: int) -> HeadMeasurement:
    """Measure both with the same parameters and features; they leave the same gradients."""
    features = features.detach().requires_grad_()
    inputs = (features, head.weight, head.bias)
    calls = {
        "LinearLoss": lambda: torch.autograd.grad(head(features, targets), inputs),
        "apart": lambda: torch.autograd.grad(head.loss(F.linear(*inputs), targets), inputs),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(2 + rounds):
        for name, call in calls.items():
            milliseconds = _time(call, features.device)
            if round_number >= 2:
                times[name].append(milliseconds)
    return HeadMeasurement(
        {name: statistics.median(values) for name, values in times.items()},
        {name: _peak_mb(call, features.device) for name, call in calls.items()},
    )


def _step(call: Callable[[], Tensor], logits: Tensor) -> Tensor:
    return torch.autograd.grad(call(), logits)[0]


def _gradient_float64(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, dense: Tensor) -> Tensor:
    exact = logits.detach().double().requires_grad_()
    target = dense if dense.dtype == torch.bool else dense.double()
    return torch.autograd.grad(function(exact, target), exact)[0]


def _time(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begin = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - begin)


def _peak_mb(step: Callable[[], object], device: torch.device) -> float | None:
    """Return the MB that a step needs at its peak beyond those in use before it; None if unknown."""
    if device.type == "cuda":
        return _peak_bytes(step, device) / 1e6
    gc.collect()
    with _return_freed_memory():
        step()  # the first step grows thread stacks
        try:
            return max(_peak_bytes(step, device), 0) / 1e6
        except OSError:
            return None


def _peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    meter = Meter(device)
    before = meter.start()
    step()
    return meter.peak() - before


# --- the allocator --------------------------------------------------------------------------------


@contextlib.contextmanager
def _return_freed_memory() -> Iterator[None]:
    """Make malloc return what is freed at once, so that resident memory is memory in use."""
    give_memory_back()
    trim_memory()
    try:
        yield
    finally:
        keep_memory()
