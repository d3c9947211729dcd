"""Time and peak memory of a loss and its gradient: fused, eager PyTorch, torch.compile.

Everyone gets the same logits. Eager PyTorch and torch.compile need dense targets: those are made
beforehand, and neither their time nor their memory counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlloss_cuda import CSRTargets, LinearLoss

COMPETITORS = ("fused", "eager", "compile")

# --- plain PyTorch, as one would write it well ----------------------------------------------------


def eager_bce(logits: Tensor, dense: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, dense, reduction="sum") / len(logits)


def eager_focal(logits: Tensor, dense: Tensor) -> Tensor:
    """torchvision's formula, gamma = 2."""
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, dense, reduction="none")
    p_t = p * dense + (1 - p) * (1 - dense)
    return (ce * (1 - p_t) ** 2).sum() / len(logits)


def eager_dice(logits: Tensor, dense: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    overlap = 2 * (p * dense).sum(-1) + 1
    return (1 - overlap / (p.sum(-1) + dense.sum(-1) + 1)).mean()


def eager_zlpr(logits: Tensor, dense: Tensor) -> Tensor:
    """log(1 + sum of exp) is softplus(logsumexp): no column of zeros to concatenate."""
    infinity = float("inf")
    negative = torch.logsumexp(logits.masked_fill(dense, -infinity), -1)
    positive = torch.logsumexp((-logits).masked_fill(~dense, -infinity), -1)
    return (F.softplus(negative) + F.softplus(positive)).mean()


@dataclass(frozen=True)
class Rival:
    function: Callable[[Tensor, Tensor], Tensor]
    target_dtype: torch.dtype  # what suits the formula best


RIVALS = {
    "BCE": Rival(eager_bce, torch.float32),
    "focal": Rival(eager_focal, torch.float32),
    "Dice": Rival(eager_dice, torch.float32),
    "ZLPR": Rival(eager_zlpr, torch.bool),
}


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Measurement:
    """By competitor; None where it could not run."""

    ms: dict[str, float | None] = field(default_factory=dict)
    peak_mb: dict[str, float | None] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)  # of the gradient, against float64


class _OutOfTimeError(Exception):
    """Compilation takes longer than it may."""


@dataclass
class Compiled:
    """The plain formulas by torch.compile: all of them, or none and the reason."""

    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


def compile_formulas(logits: Tensor, targets: CSRTargets, seconds: float) -> Compiled:
    """Compiles every loss's plain formula, and gives up on all of them if they take more than ``seconds`` together.

    A loss whose formula compiles sooner than another's would look better in a table than it is, so it is all or none.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # processes that compile take longer to start here than the formulas to compile
    found, start = Compiled(), time.perf_counter()
    for name, rival in RIVALS.items():
        compiled = torch.compile(rival.function, dynamic=False, fullgraph=True)
        dense = targets.to_dense().to(rival.target_dtype)
        try:
            with _limit(seconds - (time.perf_counter() - start)):
                _step(functools.partial(compiled, logits, dense), logits)
        except Exception as error:  # no time, no C++ compiler, no Triton: the demo goes on without it
            first_line = (str(error).strip().splitlines() or [""])[0][:120]
            late = time.perf_counter() - start >= seconds
            found.functions.clear()
            found.reason = (
                f"four formulas took more than the {seconds:.0f} s that they have; --minutes gives more"
                if late
                else f"{type(error).__name__} for {name}: {first_line}"
            )
            break
        found.functions[name] = compiled
    found.seconds = time.perf_counter() - start
    return found


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raises an exception in this block once so many seconds are over, where the system has such a clock."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again and again: an exception that is raised in a callback of the interpreter's own is lost.
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
    """Medians over interleaved rounds, so that a noisy moment hits every competitor alike."""
    rival = RIVALS[name]
    dense = targets.to_dense().to(rival.target_dtype)
    result = Measurement()
    device = logits.device
    calls: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: loss(logits, targets),
        "eager": lambda: rival.function(logits, dense),
    }
    if compiled is not None:
        calls["compile"] = functools.partial(compiled, logits, dense)

    exact = _gradient_float64(rival.function, logits, dense)
    for competitor, call in calls.items():
        difference = _step(call, logits).double() - exact
        result.error[competitor] = (difference.norm() / exact.norm()).item()

    times: dict[str, list[float]] = {competitor: [] for competitor in calls}
    deadline = time.perf_counter() + seconds
    for round_number in range(2 + rounds):  # two to warm up
        if round_number > 4 and time.perf_counter() > deadline:
            break
        for competitor, call in calls.items():
            milliseconds = _time(functools.partial(_step, call, logits), device)
            if round_number >= 2:
                times[competitor].append(milliseconds)
    for competitor in COMPETITORS:
        values = times.get(competitor)
        result.ms[competitor] = statistics.median(values) if values else None
        own = functools.partial(_step, calls[competitor], logits) if competitor in calls else None
        result.peak_mb[competitor] = None if own is None else _peak_mb(own, device)
    return result


@dataclass
class HeadMeasurement:
    """Forward and backward of the last layer with its loss: as one module, and one after the other."""

    ms: dict[str, float]
    peak_mb: dict[str, float | None]  # besides parameters, features and targets; the gradients are in it


def measure_head(head: LinearLoss, features: Tensor, targets: CSRTargets, rounds: int) -> HeadMeasurement:
    """Both get the same parameters and features, and leave the same gradients."""
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
    """What one step needs on top of what is there, at its worst moment."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    gc.collect()
    with _return_freed_memory():
        step()
        _trim()  # what that step freed must not pass for memory that this one need not ask for
        if not _reset_peak_rss():
            return None
        before = _status_kb("VmRSS")
        step()
        return max(_status_kb("VmHWM") - before, 0) * 1024 / 1e6


def _reset_peak_rss() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # 5: forget the peak (man 5 proc)
    except OSError:
        return False
    return True


def _status_kb(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


# --- the allocator --------------------------------------------------------------------------------

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # from glibc's malloc.h


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _trim() -> None:
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def keep_freed_memory() -> bool:
    """Has glibc's malloc keep what is freed, for training and for times; False where it cannot.

    By default each large tensor is freshly zeroed pages, whose page faults cost more than the loss
    does, for the library and for its rivals alike.
    """
    libc = _glibc()
    if libc is None:
        return False
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(libc.mallopt(_M_MMAP_MAX, 0))


@contextlib.contextmanager
def _return_freed_memory() -> Iterator[None]:
    """Has malloc give back what is freed at once, so that resident memory is memory in use."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 65536)
    libc.mallopt(_M_MMAP_THRESHOLD, 64 * 1024)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    libc.malloc_trim(0)
    try:
        yield
    finally:
        keep_freed_memory()
