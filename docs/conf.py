"""Sphinx, for ``make docs``: the pages of this folder, and the API from docstrings that are filled at import."""

from __future__ import annotations

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
exclude_patterns = ["images"]
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
    """A page may have its place in a table of contents, marked ``# if written``, before it is there."""
    folder = (Path(app.srcdir) / docname).parent
    lines = source[0].splitlines(keepends=True)
    mark = "# if written"
    source[0] = "".join(
        line.replace(mark, "").rstrip() + "\n" if mark in line else line
        for line in lines
        if mark not in line or (folder / f"{line.split()[0]}.md").exists()
    )


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("source-read", _written)
