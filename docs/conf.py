"""The site: the Markdown files of this folder and of the root, as they are. ``make docs`` builds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.addnodes import pending_xref

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

project = "stream-detector"
extensions = ["myst_parser"]
include_patterns = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/**.md"]
root_doc = "docs/index"

html_theme = "furo"
html_title = "stream-detector"
html_extra_path = ["site"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # browsers let no page from disk read another
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions: list[str] = []  # what a code host shows and no more
myst_heading_anchors = 4  # as code hosts make them
highlight_language = "none"  # of blocks that name none: drawings and output
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # JSON with … in it


def add_contents(app: Sphinx, document: str, source: list[str]) -> None:
    """The site's navigation is the index: each of its sections lists pages, and all pages are listed there."""
    if document != root_doc:
        return
    for section in source[0].split("\n## ")[1:]:
        pages = re.findall(r"\[([^]]+)\]\(([^)#:]+)\.md\)", section)
        listed = "\n".join(f"{name} <{page}>" for name, page in pages)
        title = section.partition("\n")[0]
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n"


def leave_folders(app: Sphinx, document: nodes.document) -> None:
    """A link to a folder leads somewhere on a code host and nowhere in the site: here it is text."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(document.findall(pending_xref)):
        if link["reftarget"] and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", leave_folders)
