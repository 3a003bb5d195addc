"""Sphinx settings: `make docs` builds the site. Nothing is fetched, neither while building nor by the pages."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "platform")]

from reference_pages import write_pages  # noqa: E402
from reliability_table import reliability_table  # noqa: E402

import galleria.serving.app  # noqa: E402  # autodoc imports with TYPE_CHECKING set, which FastAPI does not support

project = "galleria"
author = "The galleria authors"
copyright = author  # noqa: A001
release = galleria.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_generated"]
templates_path: list[str] = []
default_role = "code"  # docstrings write `name` as Markdown does
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False  # patterns of strings are no reStructuredText

html_theme = "furo"
html_title = f"galleria {release}"
html_static_path: list[str] = []
html_extra_path = ["grafana.json"]
html_copy_source = False
html_show_sphinx = False

write_pages(HERE / "_generated")
(HERE / "_generated" / "reliability.md").write_text(reliability_table() + "\n")


def escape_bars(_app: Any, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Keep the |x| of formulas from being read as a substitution."""
    lines[:] = [line.replace("|", "\\|") if "|" in line and "`" not in line else line for line in lines]


def setup(app: Any) -> None:
    """Register the above before napoleon's own reading of the docstrings."""
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
