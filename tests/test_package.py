"""``import mlloss_cuda``: its names, and the submodules that load on first use."""

from __future__ import annotations

import pytest

import mlloss_cuda
from mlloss_cuda import functional

from .new_process import run_python

SUBMODULES = ("compat", "data", "functional", "metrics")


def printed_by(code: str) -> str:
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_submodules_load_on_first_use() -> None:
    code = (
        "import sys, mlloss_cuda as m\n"
        f"names = {SUBMODULES!r}\n"
        "assert not {'mlloss_cuda.data', 'mlloss_cuda.functional', 'mlloss_cuda.metrics'} & sys.modules.keys()\n"
        "assert set(names) <= set(dir(m))\n"
        "for name in names:\n"
        "    assert getattr(m, name) is sys.modules[f'mlloss_cuda.{name}']\n"
        "assert not {'scipy', 'torchmetrics', 'triton'} & sys.modules.keys()\n"
        "print(m.functional.zlpr_loss.__name__)"
    )
    assert printed_by(code) == "zlpr_loss"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mlloss_cuda' has no attribute 'functionals'"):
        _ = mlloss_cuda.functionals


def test_star_import_has_no_submodules() -> None:
    code = "from mlloss_cuda import *; print({'data', 'functional', 'metrics'} & globals().keys())"
    assert printed_by(code) == "set()"


def test_functional_has_the_package_functions() -> None:
    assert mlloss_cuda.functional is functional
    assert all(getattr(functional, name) is getattr(mlloss_cuda, name) for name in functional.__all__)
