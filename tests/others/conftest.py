"""The tally of comparisons, as a fixture and in the summary of the run."""

from __future__ import annotations

import itertools

import pytest

from .tally import Tally, lines


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    return Tally(request.node.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    shown = lines(itertools.chain.from_iterable(terminalreporter.stats.values()))
    if shown:
        terminalreporter.section("compared with other packages")
        for line in shown:
            terminalreporter.line(line)
