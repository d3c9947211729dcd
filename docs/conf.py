"""Sphinx settings of ``make docs``: the pages in this folder, and the API from the docstrings."""

from __future__ import annotations

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
