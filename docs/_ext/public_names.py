"""Leads references in signatures and docstrings to the names under which things are documented.

Annotations name the module that defines a class (`celery_stackstate.records.Run`); the reference documents it where
users import it from (`celery_stackstate.Run`).
"""

from __future__ import annotations

from typing import cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment

#: What signatures mention that users neither make nor name: it is shown as text.
INTERNAL = {"Settings", "TTL", "D", "T"}


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, inside: nodes.Element) -> object:
    """Find what is documented under another name of the same class."""
    if node.get("refdomain") != "py" or not node["reftarget"]:
        return None
    domain = cast(PythonDomain, env.get_domain("py"))
    name = node["reftarget"].rpartition(".")[2]
    for place in ("celery_stackstate", "celery_stackstate.stores.base"):
        if f"{place}.{name}" in domain.objects:
            node["reftarget"] = f"{place}.{name}"
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", node["reftarget"], node, inside)
    return inside if name in INTERNAL else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the look-up."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
