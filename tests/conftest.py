"""The options, seeds, backends and fixtures that the test modules share."""

from __future__ import annotations

import ctypes
import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import BackendStatus, _backends, _extension

from . import failures, instruction_sets, interpreter, selection
from .cases import Case, all_cases

# Launch strategies with which group losses are tested on the CUDA engine.
STRATEGIES = ("team", "split")
TRITON_STRATEGIES = ("streaming", "split")
# Orders of the emulated threads; each test runs in one of them.
ORDERS = ("fifo", "lifo", "random")
ENGINES = (("cpu", "cpu"), ("cuda", "cuda"), ("triton", "cuda"))
# Elements of a tile under Triton's interpreter, whose time grows with the number of operations, not with their size.
INTERPRETED_ELEMENTS = 1 << 16
# The seed is kept in the environment, so that processes which pytest-xdist starts use the same one.
SEED = int(os.environ.setdefault("MLLOSS_TEST_SEED", str(random.SystemRandom().randrange(2**31))))


@dataclass(frozen=True)
class Backend:
    """A fused engine under test, and the device of its tensors."""

    name: str
    device: str
    library: Path | None = None
    strategy: str = "automatic"

    @property
    def label(self) -> str:
        return self.name if self.strategy == "automatic" else f"{self.name}-{self.strategy}"

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies with which this engine is tested."""
        return TRITON_STRATEGIES if self.name == "triton" else STRATEGIES

    @property
    def first(self) -> bool:
        """Whether this is the first strategy of its engine."""
        return self.strategy in ("automatic", self.strategies[0])

    def repeats(self, case: Case | None) -> bool:
        """Whether the first strategy runs the same test: one strategy is enough for slow tests with few launches."""
        return not self.first and (case is None or replace(self, strategy=self.strategies[0]).serves(case))

    @property
    def namespace(self) -> str:
        return _backends.route_to(self.name).namespace

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._strategy(), mlloss_cuda.use_backend(self.name):
            yield

    @contextmanager
    def _strategy(self) -> Iterator[None]:
        if self.name == "triton":
            elements = INTERPRETED_ELEMENTS if self.device == "cpu" else None
            with planned(self.strategy, elements):
                yield
            return
        if self.library is None:
            yield
            return
        set_strategy = ctypes.CDLL(str(self.library)).mlloss_cuda_strategy
        set_strategy(_extension.strategies()[self.strategy])
        try:
            yield
        finally:
            set_strategy(0)

    def serves(self, case: Case, parts: bool = False) -> bool:
        """Whether a test of this case needs this strategy: those that would run the same kernels are left out.

        A case that stands for no path through the engines gets one strategy, each in turn. ``parts``: the test has the
        labels in parts, whose statistics always come from the split strategy.
        """
        if self.strategy == "automatic":
            return True
        if case.element_wise:
            return self.first
        if parts:
            return self.strategy == "split"
        if case.grouping != "samples":
            return self.strategy == "split"
        return case.path or self.strategy == self.strategies[case.number % len(self.strategies)]


@contextmanager
def planned(strategy: str, elements: int | None) -> Iterator[None]:
    """Run Triton's kernels with this strategy, in tiles of ``elements`` elements (None for the tuning table's)."""
    from mlloss_cuda._triton import plan
    from mlloss_cuda._triton.tuning import Size

    before = plan.forced_strategy, plan.forced_size
    plan.forced_strategy, plan.forced_size = strategy, Size(elements, 4) if elements else None
    try:
        yield
    finally:
        plan.forced_strategy, plan.forced_size = before


FUSED = pytest.StashKey[list[Backend]]()


def library_of(backend: Backend) -> ctypes.CDLL:
    assert backend.library is not None
    return ctypes.CDLL(str(backend.library))


def last_strategy(backend: Backend) -> str:
    """Return the strategy of the process's last forward pass on the CUDA engine."""
    names = {number: name for name, number in _extension.strategies().items()}
    return names[library_of(backend).mlloss_cuda_last_strategy()]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulated",
        type=Path,
        metavar="LIBRARY",
        help="test only the CUDA kernels that LIBRARY has, built for tests/emulator",
    )
    parser.addoption(
        "--interpreted",
        action="store_true",
        help="test only the Triton kernels, on the CPU by Triton's interpreter",
    )
    parser.addoption("--backend", choices=[name for name, _ in ENGINES], help="test only this fused backend")
    parser.addoption(
        "--cpu-kernels", choices=instruction_sets.NAMES, help="test the CPU kernels of this instruction set"
    )
    selection.add_option(parser)
    failures.pytest_addoption(parser)
    parser.addoption(
        "--races",
        type=Path,
        metavar="FOLDER",
        help="run tests/races too, with the programs of tests/emulator in this folder",
    )
    parser.addoption(
        "--others", action="store_true", help="run tests/others too, which needs the packages of the extra `others`"
    )
    parser.addoption(
        "--training",
        action="store_true",
        help="run tests/training too, which needs the packages of the extra `training`",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    optional = collection_path.name in ("races", "others", "training")
    return True if optional and not config.getoption(collection_path.name) else None


def _by_strategy(name: str, device: str, library: Path) -> list[Backend]:
    return [Backend(name, device, library, strategy) for strategy in STRATEGIES]


def _triton(device: str) -> list[Backend]:
    return [Backend("triton", device, strategy=strategy) for strategy in TRITON_STRATEGIES]


def _usable(name: str, device: str) -> list[Backend]:
    if name == "cuda":
        return _by_strategy(name, device, _extension.library_path("_cuda"))
    if name == "triton":
        return _triton(device)
    return [Backend(name, device)]


def _share_cores() -> None:
    """Give each pytest-xdist worker its share of the cores: more threads than cores would wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests start
        torch.set_num_threads(threads)


def pytest_configure(config: pytest.Config) -> None:
    _share_cores()
    kernels = config.getoption("--cpu-kernels")
    if kernels and not instruction_sets.choose(kernels):
        raise pytest.UsageError(f"--cpu-kernels {kernels}: not built, or not an instruction set of this machine")
    config.addinivalue_line(
        "markers", "gpu(devices=1, gib=1): runs only on CUDA, with at least this many GPUs and this much memory"
    )
    config.addinivalue_line("markers", "large: takes a large part of a GPU's memory, and runs alone")
    config.addinivalue_line("markers", "cuda_engine: runs only with the CUDA kernels, on a GPU or emulated")
    config.addinivalue_line("markers", "emulated: runs only with the emulated kernels")
    config.addinivalue_line(
        "markers", "element_wise: tests a loss without statistics, for which one strategy is enough"
    )
    config.addinivalue_line("markers", "parts: tests parts of the labels, which always use the split strategy")
    config.addinivalue_line("markers", "triton_engine: runs only with the Triton kernels, on a GPU or interpreted")
    config.addinivalue_line("markers", "reference_too: runs with every backend, including the reference")
    config.addinivalue_line("markers", "xdist_group(name): pytest-xdist's marker, declared for runs without it")
    config.pluginmanager.register(selection)
    failures.pytest_configure(config)
    library = config.getoption("--emulated")
    if config.getoption("--interpreted"):
        interpreter.start()
        config.stash[FUSED] = _triton("cpu")
    elif library:
        _backends.add_engine(
            "emulated",
            _backends.Engine(
                lambda: BackendStatus(True, ""),
                ("cpu",),
                "mlloss_cuda_emulated",
                compounds=_extension.compiled_compounds,
            ),
        )
        torch.ops.load_library(str(library))
        config.stash[FUSED] = _by_strategy("emulated", "cpu", library)
    else:
        found, wanted = mlloss_cuda.backends(), config.getoption("--backend")
        if wanted and not found[wanted].usable:
            raise pytest.UsageError(f"--backend {wanted}: {found[wanted].reason}")
        chosen = [(name, device) for name, device in ENGINES if found[name].usable and wanted in (None, name)]
        config.stash[FUSED] = [backend for name, device in chosen for backend in _usable(name, device)]


def pytest_report_header(config: pytest.Config) -> str:
    names = ", ".join(backend.label for backend in config.stash[FUSED])
    if config.getoption("--cpu-kernels"):
        names += f" ({instruction_sets.active()})"
    return f"seed: {SEED} (MLLOSS_TEST_SEED repeats it); fused backends: {names}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        fused = metafunc.config.stash[FUSED]
        if metafunc.definition.get_closest_marker("reference_too"):
            fused = [*fused, Backend("reference", fused[0].device if fused else "cpu")]
        metafunc.parametrize("backend", fused, indirect=True, ids=lambda backend: backend.label)


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """A random generator for this test: new in each session, and the same for a given seed and test."""
    return torch.Generator().manual_seed(SEED ^ zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """The engine under test, in use. A test runs emulated threads in an order of its own, the same in each run."""
    if request.param.name == "emulated" and "CUEMU_ORDER" not in os.environ:
        monkeypatch.setenv("CUEMU_ORDER", ORDERS[zlib.crc32(request.node.nodeid.encode()) % len(ORDERS)])
    with request.param.active():
        yield request.param


@pytest.fixture(params=all_cases(), ids=lambda case: case.label)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def served(backend: Backend, case: Case) -> Case:
    """A case, with the backend in use."""
    return case
