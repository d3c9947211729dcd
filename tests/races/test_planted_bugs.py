"""Tests of the detectors: each finds the planted bugs of its kind, and none in correct kernels.

The emulator runs threads in several orders. A correct kernel passes in each; some bugs show in some orders only.
"""

from __future__ import annotations

import re

import pytest

from .conftest import Run, run_program

# The messages of each detector: a crash for another reason is not a detection.
DETECTORS = {
    "plain": "cuemu: ERROR|WRONG|launch error",
    "sanitized": "ERROR: AddressSanitizer|runtime error",
    "races": "cuemu: RACE",
}

ORDERS = ("fifo", "lifo", "random")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The program lists each kernel with the detectors that must catch it, in a certain order if it names one."""
    listed = run_program(metafunc.config.getoption("--races"), "planted_bugs_plain", "--list").stdout
    table = {line.split()[0]: line.split()[1:] for line in listed.splitlines()}
    correct = [(name, detector) for name, caught_by in table.items() if not caught_by for detector in DETECTORS]
    planted = [(name, detector) for name, caught_by in table.items() for detector in caught_by]
    assert correct
    assert planted
    metafunc.parametrize(("name", "detector"), correct if metafunc.function is test_correct_kernel_passes else planted)


def test_correct_kernel_passes(run: Run, name: str, detector: str) -> None:
    for order in ORDERS:
        done = run(f"planted_bugs_{detector}", name, CUEMU_ORDER=order)
        assert done.returncode == 0, f"{order}: {done.stdout}"
        assert done.stdout.splitlines()[-1] == "ok"


def test_bug_is_found(run: Run, name: str, detector: str) -> None:
    detector, _, order = detector.partition(":")
    done = run(f"planted_bugs_{detector}", name, CUEMU_ORDER=order or ORDERS[0])
    assert done.returncode != 0, done.stdout
    assert re.search(DETECTORS[detector], done.stdout), done.stdout
