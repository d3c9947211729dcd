"""Every loss is in all lists of losses."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mlloss_cuda
from mlloss_cuda import _registry, functional, losses

from . import signatures
from .cases import all_cases

ROOT = Path(__file__).parent.parent
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh", ".txt"}
SPECS = {spec.name: spec for spec in _registry.all_losses()}


def test_functors_and_registry_agree() -> None:
    header = (ROOT / "csrc/losses/registry.h").read_text()
    assert set(re.findall(r"X\((\w+), \w+\)", header)) == set(SPECS)


def test_every_loss_has_cases_a_function_and_a_module() -> None:
    cases = all_cases()
    # Losses of two logits have a test file of their own.
    specs = {name: spec for name, spec in SPECS.items() if not spec.second_logits}
    assert {case.spec for case in cases if "+" not in case.spec} == set(specs)
    for case in cases:
        assert getattr(mlloss_cuda, case.function.__name__) is case.function
        assert getattr(functional, case.function.__name__) is case.function
        assert getattr(mlloss_cuda, case.module.__name__) is case.module
    for spec in specs.values():
        groupings = {case.own.get("average", spec.groupings[0]) for case in cases if case.spec == spec.name}
        assert groupings == set(spec.groupings), f"{spec.name}: expected a case for each grouping"


def test_a_loss_is_six_files() -> None:
    """Hand-written code names a loss in six files only; squared hinge stands for all losses."""
    folders = ("csrc", "mlloss_cuda", "tests/cases", "tests/emulator", "tests/races", "bench")
    files = [*(ROOT / name for name in ("CMakeLists.txt", "setup.py", "Makefile", "tests/conftest.py"))]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    named = {str(path.relative_to(ROOT)) for path in files if re.search("squared_?hinge", path.read_text(), re.I)}
    assert named == {
        "csrc/losses/squared_hinge.h",
        "csrc/losses/registry.h",
        "mlloss_cuda/losses/squared_hinge.py",
        "mlloss_cuda/losses/__init__.py",
        "mlloss_cuda/_triton/squared_hinge.py",
        "tests/cases/squared_hinge.py",
    }


def test_lists_of_names_agree() -> None:
    public = set(losses.__all__)
    assert public <= set(mlloss_cuda.__all__)
    assert set(functional.__all__) == {name for name in public if name.endswith("_loss")}


def test_function_and_module_take_the_same_arguments() -> None:
    for case in all_cases():
        if case.function is mlloss_cuda.compound_loss:
            continue  # terms may be positional, and the default reduction differs
        parameters = inspect.signature(case.function).parameters
        assert list(parameters)[:2] == ["logits", "targets"]
        own = [p for p in inspect.signature(case.module.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for parameter in own:
            assert parameters[parameter.name].default == parameter.default
        common = losses._arguments.DEFAULTS
        described = losses._arguments.COMMON_ARGUMENTS
        assert list(parameters)[-len(described) :] == list(described)
        for name, argument in described.items():
            assert parameters[name].default == argument.default
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        expected = set(common) | {p.name for p in own}
        assert set(list(parameters)[2:]) == expected | {"sample_weight"}


def test_typed_arguments_are_those_of_the_table() -> None:
    assert list(losses._arguments.CommonArguments.__annotations__) == list(losses._arguments.DEFAULTS)


@pytest.mark.parametrize("path", signatures.SOURCES, ids=lambda path: path.name)
def test_lists_of_common_arguments_are_complete(path: Path) -> None:
    """The lists are as ``make lint FIX=1`` writes them."""
    text = path.read_text()
    assert signatures.completed(text) == text


def test_lists_of_common_arguments_are_completed() -> None:
    """A new argument comes into its place in every list, goes again with its line in the table, and all else stays."""
    table = dict(losses._arguments.COMMON_ARGUMENTS)
    cap = losses._arguments.CommonArgument("float", 2.5, lambda name, value: None, "")
    *before, (last, of_last) = table.items()
    extended = {**dict(before), "cap": cap, last: of_last}
    texts = {path.name: path.read_text() for path in signatures.SOURCES}
    longer = {name: signatures.completed(text, extended) for name, text in texts.items()}
    assert {name: signatures.completed(text, table) for name, text in longer.items()} == texts
    for name, lines in {
        "dice.py": ("    cap: float = 2.5,", "        cap=cap,"),
        "focal.py": ("    cap: float = 2.5,", '        "cap": cap,'),
        "compound.py": ("    cap: float = 2.5,", '        "cap": cap,', '    reduction: str = "batchmean",'),
        "_arguments.py": ("    cap: float",),
    }.items():
        assert set(lines) <= set(longer[name].splitlines())
    complete = {case.function.__module__.rpartition(".")[2] + ".py" for case in all_cases()}
    assert {name for name in texts if texts[name] != longer[name]} == complete | {"_arguments.py"}


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(mlloss_cuda.__path__, "mlloss_cuda.")]
    return [
        importlib.import_module(name) for name in names if not name.endswith(("._C", "._cpu", "._cuda", "__main__"))
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_docstring_examples(module: ModuleType) -> None:
    names = {"torch": torch, **{name: getattr(mlloss_cuda, name) for name in mlloss_cuda.__all__}}
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_docstrings_are_filled_in() -> None:
    for case in all_cases():
        text = case.function.__doc__ or ""
        assert not re.search(r"\{\w+\}", re.sub(r"\\\w+\{[^}]*\}|[\^_]\{[^}]*\}|\\frac\{.*", "", text)), text
        for section in ("Args:", "Returns:", "Raises:", "Source:", "Example:", "ignore_index:", "reduction:"):
            assert section in text
