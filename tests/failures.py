"""``--failures``: writes each failure at once, as a run may be killed, and runs no test in a broken CUDA context."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

# Errors after which every CUDA call of the process fails, as CUDA, torch and Triton print them. The pattern matches the
# lines of the exception ("E"), not the source lines beside them.
_BROKEN = re.compile(
    r"^E\b.*CUDA\b.*(illegal memory access|misaligned address|illegal instruction|launch failure|device-side assert"
    r"|invalid program counter|invalid address space|hardware stack error|uncorrectable)",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--failures",
        type=Path,
        metavar="FILE",
        help="write each failure there as it comes, and end a process whose CUDA context a test has broken",
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--failures")
    if path is not None:
        config.pluginmanager.register(_Failures(config, path))


class _Failures:
    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.path, self.plugins = path, config.pluginmanager
        self.worker = hasattr(config, "workerinput")  # a pytest-xdist worker, which reports to its controller

    @pytest.hookimpl(trylast=True)  # after a worker has sent the report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(report)
        ours = not self.plugins.hasplugin("dsession")  # the test ran in this process
        if ours and report.failed and _BROKEN.search(report.longreprtext):
            if self.worker:
                os._exit(1)  # pytest-xdist starts another worker
            pytest.exit(f"{report.nodeid} broke the CUDA context", pytest.ExitCode.TESTS_FAILED)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._write(report)

    def _write(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.worker:
            with self.path.open("a") as file:
                file.write(f"FAILED {report.nodeid}\n{report.longreprtext}\n\n")
