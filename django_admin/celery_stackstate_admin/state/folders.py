"""The list of state with its folders above it: scopes, and the parts of keys between ":" and "/"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.folders import MOST_COUNTED, SEPARATORS, Folder
from celery_stackstate_admin import present
from celery_stackstate_admin.scopes import scope_name
from celery_stackstate_admin.source import extension
from celery_stackstate_admin.state.changelist import StateChangeList

SCOPE, PREFIX, KIND, PAGE, SEARCH, FOLDERS = "scope", "key__startswith", "kind", "p", "q", "folders"
SORTS = ("task", "run", "scope")
MOST_FOLDERS = 40
MOST_SCOPES_COUNTED = 20

_PART = re.compile(f"[^{SEPARATORS}]*[{SEPARATORS}]|[^{SEPARATORS}]+")


@dataclass(frozen=True, slots=True)
class Crumb:
    """One step of the way to where one is; without a `url` it is where one is."""

    name: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """One folder to go into. `count` says in words how much is in it."""

    name: str
    url: str
    count: str
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """What stands above the list. `more` leads to further folders, "" when there are none."""

    crumbs: tuple[Crumb, ...]
    places: tuple[Place, ...]
    more: str = ""


class FolderChangeList(StateChangeList):
    """State, and where in its folders one is. `panel` is None while something else than a folder is looked for."""

    panel: Panel | None = None

    def get_filters_params(self, params: Any = None) -> Any:
        """Return the filters of the address; the page of the folders is none."""
        found = super().get_filters_params(params)
        found.pop(FOLDERS, None)
        return found

    def get_results(self, request: Any) -> None:
        """Read the page of the list, and the folders below the one that is looked at."""
        super().get_results(request)
        known = {SCOPE, PREFIX, KIND, FOLDERS}
        if not self.query and set(self.get_filters_params()) <= known:
            self.panel = self._panel(request.GET)

    def _panel(self, asked: Any) -> Panel:
        scope, prefix = asked.get(SCOPE, ""), asked.get(PREFIX, "")
        if "\0" in scope + prefix:
            return Panel((Crumb(_("All state")),), ())
        places, more = self._places(scope, prefix, asked.get(KIND), asked.get(FOLDERS))
        crumbs = list(self._crumbs(scope, prefix))
        return Panel((*crumbs[:-1], Crumb(crumbs[-1].name)), tuple(places), more)

    def _at(self, scope: str, prefix: str = "", **more: str) -> str:
        """Return the address of a folder, with the filter by kind that is on."""
        asked = {name: value or None for name, value in ((SCOPE, scope), (PREFIX, prefix))}
        return self.get_query_string({**asked, **more}, [PAGE, SEARCH, *(() if FOLDERS in more else (FOLDERS,))])

    def _crumbs(self, scope: str, prefix: str) -> Iterator[Crumb]:
        yield Crumb(_("All state"), self._at(""))
        sort, colon, _name = scope.partition(":")
        if sort in SORTS:
            yield Crumb(str(sort_name(sort)), self._at(sort))
        if scope == "app" or colon:
            yield Crumb(scope_name("" if scope == "app" else scope), self._at(scope))
        way = ""
        for part in _PART.findall(prefix):
            way += part
            yield Crumb(present.line(part, 60), self._at(scope, way))

    def _places(self, scope: str, prefix: str, kind: str | None, after: str | None) -> tuple[list[Place], str]:
        browser, locks = extension().browser, None if not kind else kind == "lock"
        if not scope and not prefix:
            return list(self._sorts(browser, locks)), ""
        below: dict[str, Any] = {"scope": "" if scope in ("", "app") else scope, "prefix": prefix}
        if scope in SORTS:
            below = {"scope": None, "prefix": f"{scope}:"}
        try:
            page = browser.folders(**below, locks=locks, after=after, limit=MOST_FOLDERS)
        except ConfigurationError:
            page = browser.folders(**below, locks=locks, limit=MOST_FOLDERS)
        places = [self._place(scope or "app", prefix, folder) for folder in page.items]
        return places, self._at(scope, prefix, **{FOLDERS: page.next}) if page.next else ""

    def _place(self, scope: str, prefix: str, folder: Folder) -> Place:
        if scope in SORTS:
            name, url = folder.name.partition(":")[2], self._at(folder.name)
        else:
            name, url = folder.name[len(prefix) :], self._at(scope, folder.name)
        return Place(present.line(name, 60), url, *counted(folder.count))

    def _sorts(self, browser: Any, locks: bool | None) -> Iterator[Place]:
        """Yield the sorts of scope that there are: of the app how many entries, of the others how many scopes."""
        first = browser.folders(locks=locks, limit=1).items
        if first and not first[0].name:
            yield Place(_("App-wide keys"), self._at("app"), *counted(first[0].count))
        for sort in SORTS:
            page = browser.folders(prefix=f"{sort}:", locks=locks, limit=MOST_SCOPES_COUNTED)
            if page.items:
                many, number = page.next is not None, len(page.items)
                title = _("%(number)s or more") if many else "%(number)s"
                shown = f"{number}+" if many else str(number)
                yield Place(str(sort_name(sort)), self._at(sort), shown, title % {"number": number})


def counted(count: int | None) -> tuple[str, str]:
    """Return how many entries a folder holds, briefly and in a sentence."""
    if count is None:
        return f"{MOST_COUNTED}+", _("more than %(number)d entries") % {"number": MOST_COUNTED}
    return str(count), ngettext("%(number)d entry", "%(number)d entries", count) % {"number": count}


def sort_name(sort: str) -> str:
    """Return a sort of scope in words."""
    return {"task": _("Tasks"), "run": _("Runs"), "scope": _("Named scopes")}[sort]
