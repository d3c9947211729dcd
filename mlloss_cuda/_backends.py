"""The backends: their status, the choice of one for a call, and ``use_backend``."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch

from . import _ops
from ._extension import build_information, compiled_compounds, cpu_missing, cuda_missing

__all__ = [
    "BackendStatus",
    "Engine",
    "add_engine",
    "backends",
    "choose",
    "forced",
    "one_pass",
    "route",
    "route_to",
    "takes_label_parameters",
    "takes_parts",
    "use_backend",
]

_LEAST_CAPABILITY: Final = (8, 0)
_LEAST_TRITON: Final = (3, 6)
_MOST_CUDA_LABELS: Final = 2**31 - 1024  # kMaxLabels of csrc/core/launch_plan.h
_MOST_TRITON_LABELS: Final = 2**31 - 2**16  # a tile's columns are counted in 32 bits


class BackendStatus(NamedTuple):
    """The status of a backend: whether it can be used here, and if not, the reason."""

    usable: bool
    reason: str  # empty when usable


def _cuda_status() -> BackendStatus:
    if cuda_missing:
        return BackendStatus(False, cuda_missing)
    if torch.version.cuda is None:
        return BackendStatus(False, f"torch {torch.__version__} has no CUDA; the kernels are built and loaded")
    if not torch.cuda.is_available():
        return BackendStatus(False, "torch sees no CUDA device")
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    toolkit = build_information()["cuda"]
    if driver // 1000 < int(toolkit.split(".")[0]):
        return BackendStatus(
            False,
            f"the kernels are built with CUDA {toolkit}, the driver supports {driver // 1000}.{driver % 1000 // 10}",
        )
    for device in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_capability(device)
        if found < _LEAST_CAPABILITY:
            name = torch.cuda.get_device_name(device)
            return BackendStatus(
                False, f"the kernels need compute capability 8.0, and {name} has {found[0]}.{found[1]}"
            )
    return BackendStatus(True, "")


def _gpu_keys() -> list[str]:
    """Return the dispatch keys of GPUs that torch sees and Triton supports: CUDA for NVIDIA and AMD, XPU for Intel."""
    found = (("CUDA", torch.cuda.is_available()), ("XPU", torch.xpu.is_available()))
    return [key for key, available in found if available]


def _triton_status() -> BackendStatus:
    if importlib.util.find_spec("triton") is None:
        return BackendStatus(False, "triton is not installed; `pip install triton`")
    keys = _gpu_keys()
    if not keys:
        return BackendStatus(False, "torch sees no GPU that Triton supports")
    try:
        version = importlib.import_module("triton").__version__
        if tuple(map(int, version.split(".")[:2])) < _LEAST_TRITON:
            return BackendStatus(
                False, f"Triton {version} is too old; install 3.6 or later, which torch 2.11 and later include"
            )
        for key in keys:
            importlib.import_module("mlloss_cuda._triton").register(key)
    except Exception as error:  # a broken installation may raise anything
        return BackendStatus(False, f"triton does not load: {type(error).__name__}: {error}")
    return BackendStatus(True, "")


class Engine(NamedTuple):
    """A fused engine: its status, the device types that it serves, the namespace of its ops and its limits."""

    status: Callable[[], BackendStatus]
    devices: tuple[str, ...]
    namespace: str
    most_labels: int | None = None  # the most labels in a row; None is no limit
    compounds: Callable[[str], bool] = lambda name: True  # returns whether a sum of losses runs in one pass


# The order is that of preference. The reference serves every device and comes last; it is not listed here.
_engines: dict[str, Engine] = {
    "cuda": Engine(_cuda_status, ("cuda",), _ops.NAMESPACE, _MOST_CUDA_LABELS, compiled_compounds),
    "triton": Engine(_triton_status, ("cuda", "xpu"), "mlloss_cuda_triton", _MOST_TRITON_LABELS),
    "cpu": Engine(lambda: BackendStatus(not cpu_missing, cpu_missing), ("cpu",), _ops.NAMESPACE),
}


def add_engine(name: str, engine: Engine) -> None:
    """Register another engine; tests register the emulated kernels this way."""
    _ops.define(engine.namespace)
    _engines[name] = engine
    _usable_cache.pop(name, None)
    _chosen.clear()


class Route(NamedTuple):
    """The backend of a call, the namespace of its ops (empty for the reference) and its most labels, if limited."""

    backend: str
    namespace: str = ""
    most_labels: int | None = None


def route_to(backend: str) -> Route:
    """Return the route of a call that runs on ``backend``."""
    engine = _engines.get(backend)
    return Route(backend) if engine is None else Route(backend, engine.namespace, engine.most_labels)


def _status(name: str) -> BackendStatus:
    return _engines[name].status() if name in _engines else BackendStatus(True, "")


def backends() -> dict[str, BackendStatus]:
    """Return the status of each backend by its name: whether it is usable here, and if not, the reason.

    Example:
        >>> backends()["reference"].usable
        True
    """
    return {name: _status(name) for name in (*_engines, "reference")}


class _Request:
    """One ``use_backend`` block. Blocks in several threads end in any order, so each removes its own request."""

    def __init__(self, name: str) -> None:
        self.name = name


# This is a module global because torch.compile(fullgraph=True) can read one, but not a ContextVar.
_forced: str | None = None
_requests: list[_Request] = []
_warned: set[str] = set()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make every loss run on one backend until the ``with`` block ends, in all threads.

    Args:
        name: ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"`` (plain PyTorch, any device).

    Raises:
        ValueError: the name is unknown, or the backend is not usable; the message gives the reason.

    Example:
        >>> with use_backend("reference"):
        ...     pass
    """
    global _forced
    known = (*_engines, "reference")
    if name not in known:
        raise ValueError(f"name: expected one of {', '.join(map(repr, known))}, got {name!r}")
    if not _usable(name):
        raise ValueError(f"name: the backend {name!r} is not usable: {_status(name).reason}")
    request = _Request(name)
    _requests.append(request)
    _forced = name
    try:
        yield
    finally:
        _requests.remove(request)
        _forced = _requests[-1].name if _requests else None


# The route for each device and loss that an engine serves, if no backend is forced.
_chosen: dict[tuple[torch.device, str], Route] = {}


def choose(device_type: str, loss: str = "") -> str:
    """Return the first backend that serves ``loss`` for tensors on a device of this type."""
    return route(torch.device(device_type), loss).backend


def route(device: torch.device, loss: str) -> Route:
    """Return the backend that :func:`choose` returns, with its ops."""
    if _forced is None:
        found = _preferred(device, loss)
        if found is None:
            _warn(device.type)
            return Route("reference")
        return found
    return route_to(_forced_choice(_forced, device.type, loss))


def _forced_choice(forced: str, device_type: str, loss: str) -> str:
    """Return the backend that serves ``loss`` inside ``use_backend(forced)``."""
    if _ops.COMPOUND in loss:
        found = one_pass(device_type, loss, forced)
        assert found is not None, loss
        return found
    if forced != "reference" and device_type not in _engines[forced].devices:
        raise ValueError(f"use_backend({forced!r}): logits are on {device_type!r}, which it does not serve")
    return forced


def _preferred(device: torch.device, loss: str) -> Route | None:
    """Return the route to the first usable engine for ``loss`` on a device, or None."""
    found = _chosen.get((device, loss))
    if found is None:
        if _ops.COMPOUND in loss:
            name = one_pass(device.type, loss, None)
            assert name is not None, loss
        else:
            name = next((name for name in _serving(device.type) if _usable(name)), None)
        if name is not None:
            found = _chosen[device, loss] = route_to(name)
    return found


def forced() -> str | None:
    """Return the backend that ``use_backend`` forces, or None."""
    return _forced


def one_pass(device_type: str, compound: str, forced: str | None) -> str | None:
    """Return the backend that runs a sum of losses in one pass, or None."""
    names = _serving(device_type) if forced is None else [forced] if forced in _serving(device_type) else []
    return next((name for name in names if _usable(name) and _engines[name].compounds(compound)), None)


def takes_label_parameters(backend: str) -> bool:
    """Return whether a backend's compounds support a label parameter, such as ``pos_weight``."""
    return backend in ("cpu", "triton")


def takes_parts(backend: str) -> bool:
    """Return whether a backend has the ops for parts of the labels; all fused engines have them."""
    return backend in _engines


def _serving(device_type: str) -> list[str]:
    return [name for name, engine in _engines.items() if device_type in engine.devices]


_usable_cache: dict[str, bool] = {}


def _usable(name: str) -> bool:
    if name not in _usable_cache:
        _usable_cache[name] = _status(name).usable
    return _usable_cache[name]


# This is torch.compiler.assume_constant_result without the import of dynamo. The result is constant because the
# installed packages do not change, and dynamo cannot trace the import of an engine.
_preferred._dynamo_marked_constant = True  # type: ignore[attr-defined]
_usable._dynamo_marked_constant = True  # type: ignore[attr-defined]
one_pass._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _warn(device_type: str) -> None:
    if device_type in _warned or torch.compiler.is_compiling():
        return
    _warned.add(device_type)
    reasons = "; ".join(f"{name}: {_status(name).reason}" for name in _serving(device_type))
    warnings.warn(
        f"mlloss_cuda: no fused kernels for {device_type!r} tensors, PyTorch serves them ({reasons or 'no engine'})",
        stacklevel=2,
    )
