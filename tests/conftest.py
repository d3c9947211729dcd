"""Seeds, backends and inputs that the test modules share."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import mlloss_cuda

from .cases import Case, all_cases

SEED = int(os.environ.get("MLLOSS_TEST_SEED", random.SystemRandom().randrange(2**31)))


@dataclass(frozen=True)
class Backend:
    """A fused engine under test, and where its tensors live."""

    name: str
    device: str

    @contextmanager
    def active(self) -> Iterator[None]:
        with mlloss_cuda.use_backend(self.name):
            yield

    def serves(self, case: Case) -> bool:
        return self.name != "cuda" or case.own.get("average", "samples") == "samples"


BACKENDS = [
    Backend(name, device) for name, device in (("cpu", "cpu"), ("cuda", "cuda")) if mlloss_cuda.backends()[name].usable
]


def pytest_report_header() -> str:
    names = ", ".join(backend.name for backend in BACKENDS)
    return f"seed: {SEED} (MLLOSS_TEST_SEED repeats it); fused backends: {names}"


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Random numbers of this test's own: fresh each session, the same for a given seed and test."""
    return torch.Generator().manual_seed(SEED ^ zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with request.param.active():
        yield request.param


@pytest.fixture(params=all_cases(), ids=lambda case: case.label)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def served(backend: Backend, case: Case) -> Case:
    """A case that the backend has; the CUDA engine's refusal of the others is a test of its own."""
    if not backend.serves(case):
        pytest.skip(f"{backend.name} refuses {case.label}: tests/test_validation.py")
    return case
