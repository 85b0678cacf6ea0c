"""The documentation site: ``make docs`` builds it offline into ``site/``, and every warning is an error."""

from zkapex import __version__

project = "zkapex"
author = "the zkapex authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["results/*.md"]
html_theme = "furo"
html_title = "zkapex"
html_static_path: list[str] = []
templates_path: list[str] = []
# Commands with quotes that a highlighter cannot read are shown plain.
suppress_warnings = ["misc.highlighting_failure"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
# Single back quotes in docstrings are names of Python's, as everywhere in the source.
default_role = "code"
