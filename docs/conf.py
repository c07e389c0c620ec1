"""Sphinx configuration."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.errors import ExtensionError

project = "dcsurgery"
author = "The dcsurgery authors"
copyright = "2026, The dcsurgery authors"
version = release = installed_version("dcsurgery")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"dcsurgery {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Notebooks are kept without outputs, and run when the pages are built; one that fails fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False


# What the page of notebooks must show, however it is rendered: a caption of each display, and the pictures.
DISPLAYS = {
    "Census": r"<caption>Net: 3 activations, 2 normalizations, 2 gates</caption>",
    "picture of the Census": r'<img alt="Net: 3 activations, [^>]*src="data:image/svg\+xml;base64,',
    "Plan": r"<caption>plan for Net: 5 edits</caption>",
    "Surgery": r"<caption>Net: 5 edits made</caption>",
    "checks of the Surgery": r"<caption>all checks passed</caption>",
    "Diff": r"<caption>Net: 3 replaced, 2 deleted;[^<]*</caption>",
    "picture of the Diff": r'<img alt="Net: 3 replaced, [^>]*src="data:image/svg\+xml;base64,',
}


def check_displays(app, error):
    """Fail the build if the page of notebooks misses a display."""
    if error is not None or app.builder.format != "html":
        return
    page = (Path(app.outdir) / "notebooks" / "displays.html").read_text(encoding="utf-8")
    missing = [name for name, shown in DISPLAYS.items() if not re.search(shown, page)]
    if missing:
        raise ExtensionError(f"notebooks/displays.ipynb does not show: {', '.join(missing)}")


def setup(app):
    """Check what was built."""
    app.connect("build-finished", check_displays)
