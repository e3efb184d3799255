"""Leads links to the texts at the root of the project to the pages that show them.

On a code host `../CONTRIBUTING.md` is a file; the site has a page with its text.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

PAGES = {"README": "index", "CONTRIBUTING": "contributing", "CHANGELOG": "changelog", "SECURITY": "security-policy"}


def to_pages(app: Sphinx, document: nodes.document) -> None:
    """Name the pages in the references of a document that has been read."""
    for node in document.findall(pending_xref):
        name = PurePosixPath(node["reftarget"]).name
        if node.get("reftype") == "myst" and name in PAGES:
            node["reftarget"] = PAGES[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("doctree-read", to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
