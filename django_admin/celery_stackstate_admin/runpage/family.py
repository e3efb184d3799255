"""The tree of runs that a run belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext

from celery_stackstate.records import Run, RunTree
from celery_stackstate_admin import links, present
from celery_stackstate_admin.source import extension

MOST_RUNS = 100
#: As the style sheet has it.
DEEPEST_DRAWN = 6


@dataclass(frozen=True, slots=True)
class Member:
    """One run of the tree, from the root on, each before those that it published.

    `here` marks the run whose page this is. For a list of lists without recursion: `opens` begins the list of what it
    published, `closes` has an item for each list that ends behind it. `depth` says how deep it is, below
    the depth to which lists are drawn inside of each other.
    """

    title: str
    badge: Any
    note: str
    url: str
    here: bool
    opens: bool
    closes: range
    depth: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """The tree. `cut` says that it has more runs, `here` that the present one is shown; `url` is the list of all."""

    members: tuple[Member, ...]
    cut: bool
    here: bool
    url: str


def family_of(site: Any, run: Run) -> Family | None:
    """Return the tree that `run` is in, at most its oldest runs; None when the run is on its own."""
    root_id = run.root_id or run.id
    tree = extension().runs.tree(root_id, limit=MOST_RUNS)
    if tree is None and root_id != run.id:  # the root is forgotten
        tree = extension().runs.tree(run.id, limit=MOST_RUNS)
    if tree is None or not tree.children:
        return None
    rows = list(_walk(tree))
    depths = [depth for _, depth in rows]
    members = tuple(
        _member(site, one, here=one.run.id == run.id, closes=max(0, depth - following), depth=depth)
        for (one, depth), following in zip(rows, [*depths[1:], 0], strict=True)
    )
    # So many were looked at, the root perhaps among them.
    cut = len(members) >= MOST_RUNS
    return Family(members, cut, any(one.here for one in members), links.run_list(site, root_id=root_id))


def _walk(tree: RunTree) -> Iterator[tuple[RunTree, int]]:
    waiting = [(tree, 0)]
    while waiting:
        one, depth = waiting.pop()
        yield one, depth
        waiting += [(child, depth + 1) for child in reversed(one.children)]


def _member(site: Any, tree: RunTree, *, here: bool, closes: int, depth: int) -> Member:
    run = tree.run
    return Member(
        title=present.line(run.task or run.id, 120),
        badge=present.badge(run.status),
        note=present.duration(run.runtime) if run.runtime is not None else "",
        url=links.run_page(site, run.id),
        here=here,
        opens=bool(tree.children),
        closes=range(closes),
        depth=gettext("level %(number)d") % {"number": depth} if depth > DEEPEST_DRAWN else "",
    )
