"""Marks beside claims: `[✓](../tests/x.py "test_name")` leads to that test.

On a code host such a mark is a plain link to the file. In the site it is a small one, to a page with the source of
every test that is named; the directive `evidence` makes that page.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_id, make_refnode

PAGE = "evidence"
MARK = re.compile(r'\[✓\]\(((?:\.\./)+[^ )]+\.py) "(\w+)(\[[^"]*\])?"\)')


def tests_in(file: Path) -> dict[str, tuple[int, str]]:
    """Return the tests of a file, each with its line and its source."""
    text = file.read_text()
    lines = text.splitlines()
    return {
        node.name: (node.lineno, _dedented(lines, node))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _dedented(lines: list[str], node: ast.FunctionDef) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(line[node.col_offset :] for line in lines[first - 1 : node.end_lineno])


def marks_of(page: Path) -> list[tuple[Path, str]]:
    """Return each test that a page names, by its file."""
    return [((page.parent / path).resolve(), name) for path, name, _ in MARK.findall(page.read_text())]


def anchor(file: str, test: str) -> str:
    """Return the id of a test on the page."""
    return f"{Path(file).stem}-{test}".replace("_", "-")


class Evidence(SphinxDirective):
    """Lists every test that a page names, with its source."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each file."""
        self.env.note_reread()
        source = Path(self.env.srcdir)
        named: dict[Path, set[str]] = defaultdict(set)
        for page in source.rglob("*.md"):
            for file, test in marks_of(page):
                named[file].add(test)
        return [self._section(file, named[file], source.parent) for file in sorted(named)]

    def _section(self, file: Path, wanted: set[str], root: Path) -> nodes.section:
        path = file.relative_to(root).as_posix()
        self.env.note_dependency(str(file))
        section = nodes.section(ids=[make_id(self.env, self.state.document, term=path)])
        section += nodes.title("", "", nodes.literal("", path))
        for test, (line, text) in tests_in(file).items():
            if test in wanted:
                section += _folded(path, test, line, text)
        return section


def _folded(path: str, test: str, line: int, text: str) -> list[nodes.Node]:
    sentence = test.removeprefix("test_").replace("_", " ")
    head = f'<details class="evidence"><summary>{escape(sentence)}<small>line {line}</small></summary>'
    inside = f'<span id="{escape(anchor(path, test))}"></span>'
    return [
        nodes.raw("", head + inside, format="html"),
        nodes.literal_block(text, text, language="python"),
        nodes.raw("", "</details>", format="html"),
    ]


def to_references(app: Sphinx, document: nodes.document) -> None:
    """Turn the marks of a page, which MyST takes for downloads, into references."""
    for node in list(document.findall(addnodes.download_reference)):
        test = node.get("reftitle") or node.get("title")
        if node.astext() != "✓" or not test:
            continue
        wanted = anchor(node["reftarget"], test.partition("[")[0])
        mark = addnodes.pending_xref("", reftype="shown", refdomain="", reftarget=wanted, reftitle=test)
        mark += nodes.inline("", "✓", classes=["shown"])
        node.replace_self(mark)


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, inside: nodes.Element) -> object:
    """Lead a mark to its test."""
    if node["reftype"] != "shown":
        return None
    title = f"Shown by {node['reftitle']}"
    return make_refnode(app.builder, node["refdoc"], PAGE, node["reftarget"], inside, title)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the marks."""
    app.add_directive(PAGE, Evidence)
    app.connect("doctree-read", to_references, priority=400)  # before Sphinx copies downloads
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
