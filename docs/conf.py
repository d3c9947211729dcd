"""Sphinx, for ``make docs``: the pages of this folder, and the API from docstrings that are filled at import."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mlloss_cuda

project = "mlloss_cuda"
author = "The mlloss_cuda authors"
project_copyright = author
version = release = mlloss_cuda.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Pages of a part of the package that may not be there.
_NEEDED = {"api/data": "mlloss_cuda.data", "api/metrics": "mlloss_cuda.metrics", "tutorial": "mlloss_cuda.data"}
_LEFT_OUT = [page for page, module in _NEEDED.items() if importlib.util.find_spec(module) is None]
exclude_patterns = ["images", *(f"{page}.md" for page in _LEFT_OUT)]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]
default_role = "code"

html_theme = "furo"
html_title = f"mlloss_cuda {release}"
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True


def _written(app: Any, docname: str, source: list[str]) -> None:
    """A line marked ``# if written`` in a table of contents counts where its page is there."""
    mark, kept = "# if written", []
    for line in source[0].splitlines(keepends=True):
        page = str((Path(docname).parent / line.partition(mark)[0].strip()).as_posix())
        if mark not in line:
            kept.append(line)
        elif page not in _LEFT_OUT and (Path(app.srcdir) / f"{page}.md").exists():
            kept.append(line.partition(mark)[0].rstrip() + "\n")
    source[0] = "".join(kept)


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("source-read", _written)
