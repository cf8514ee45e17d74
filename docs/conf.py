"""Sphinx: the pages of this folder, and the API from the docstrings of the installed packages.

`make docs` builds them; a warning, such as a link that leads nowhere, is an error.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

project = "inpaint · patchswap"
author = "The patchswap authors"
copyright = author
release = metadata.version("patchswap")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
myst_heading_anchors = 3

default_role = "literal"  # docstrings write names in single backticks
add_module_names = False
autodoc_member_order = "bysource"
napoleon_use_rtype = False  # what is returned is a sentence, not a type
autodoc_typehints = "none"  # signatures would repeat what Args and Returns say
nitpicky = True
# Classes of other projects: their documentation is not asked for, so that a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(torch|np|numpy|PIL|collections|pathlib)\..*|Tensor|Path|Any|NoneType")]

_BARS = re.compile(r"\|(?=\S)")


def escape_bars(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Norms in docstrings, such as |p|, are no substitutions of reStructuredText."""
    lines[:] = [line if line.startswith("    ") else _BARS.sub(r"\\|", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape_bars)
