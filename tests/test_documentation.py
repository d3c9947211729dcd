"""docs/losses.md has every loss's section, defaults and picture; the pages' code runs; versions agree."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mlloss_cuda
from mlloss_cuda import functional
from mlloss_cuda.losses import _arguments

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
API = DOCS / "api"
PAGE = (DOCS / "losses.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in re.split(r"\n#+ ", PAGE))


def script() -> ModuleType:
    """Import docs/draw_losses.py, which imports matplotlib only when it draws."""
    spec = importlib.util.spec_from_file_location("draw_losses", DOCS / "draw_losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def sections_of(function: str) -> dict[str, str]:
    return {heading: text for heading, text in SECTIONS.items() if f"`{function}`" in heading}


@pytest.mark.parametrize("function", functional.__all__)
def test_every_loss_has_its_section_and_picture(function: str) -> None:
    sections = sections_of(function)
    assert sections, f"docs/losses.md: no heading names `{function}`"
    assert f"(images/losses/{function}.svg)" in "".join(sections.values())
    assert (DOCS / f"images/losses/{function}.svg").is_file(), "make report"
    for text in sections.values():
        assert re.search(r"^`.+`", text.lstrip()), "a section must begin with a formula"
        for part in ("**For**", "**Not for**", "**Numerics**", "**Source**"):
            assert part in text, part
    assert f"`{function}`" in PAGE.partition("## Choosing")[2].partition("\n## ")[0], "Choosing does not name it"


@pytest.mark.parametrize("function", functional.__all__)
def test_documented_defaults_match_the_functions(function: str) -> None:
    common = set(_arguments.COMMON_ARGUMENTS)
    own = [
        parameter
        for parameter in inspect.signature(getattr(functional, function)).parameters.values()
        if parameter.default is not parameter.empty and parameter.name not in common
    ]
    for parameter in own:
        default = f"{parameter.name}={parameter.default!r}".replace("'", '"')
        assert f"`{default}`" in "".join(sections_of(function).values())


def test_every_module_is_named() -> None:
    modules = {name for name in mlloss_cuda.losses.__all__ if not name.endswith("_loss")}
    assert modules <= {name for heading in SECTIONS for name in re.findall(r"`(\w+)`", heading)}


def test_pictures_match_the_page() -> None:
    """The page may describe a loss before it exists; only then may its picture be missing."""
    described = script().PICTURES
    linked = re.findall(r"\(images/losses/(\w+)\.svg\)", PAGE)
    assert sorted(linked) == sorted(described)
    drawn = {path.stem for path in (DOCS / "images/losses").iterdir()}
    assert drawn == {name for name, picture in described.items() if picture.function in functional.__all__}
    assert set(functional.__all__) <= {picture.function for picture in described.values()}


@pytest.mark.parametrize("page", ("quickstart", "tutorial"))
def test_code_of_pages_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's code runs from top to bottom; files that it writes go to a temporary folder."""
    if page == "tutorial":
        pytest.importorskip("mlloss_cuda.data")
    code = re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    assert code
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(code), f"docs/{page}.md", "exec"), {"__name__": page})


def test_every_public_name_is_in_the_api_pages() -> None:
    text = "\n".join(page.read_text() for page in sorted(API.iterdir()))
    named = set(re.findall(r"^\.\. auto\w+:: mlloss_cuda\.(\w+)$", text, re.MULTILINE))
    assert set(mlloss_cuda.__all__) - {"__version__"} <= named


def test_one_version_everywhere() -> None:
    version = mlloss_cuda.__version__
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (DOCS / "citing.md").read_text()
