"""Sphinx configuration."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "dcsurgery"
author = "The dcsurgery authors"
copyright = "2026, The dcsurgery authors"
version = release = installed_version("dcsurgery")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"dcsurgery {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
