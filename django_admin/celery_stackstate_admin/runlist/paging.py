"""Pages that begin and end at a run, so that runs which are added at the top move none from one page to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_stackstate_admin.runs.queryset import position

if TYPE_CHECKING:
    from celery_stackstate_admin.models import Run

AFTER, BEFORE = "after", "before"

# The latest moment that every store tells apart, in microseconds.
LATEST = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands in the lists: when it was queued, in microseconds, and its id."""

    at: int
    run_id: str

    def __str__(self) -> str:
        return f"{self.at}.{self.run_id}"

    @classmethod
    def of(cls, run: Run) -> Place:
        """Return the place of a run."""
        return cls(*position(run))

    @classmethod
    def read(cls, text: str) -> Place:
        """Return the place that an address names; ValueError when it names none."""
        at, _, run_id = text.partition(".")
        if not (at.isascii() and at.isdecimal()) or int(at) > LATEST or "\0" in run_id:
            raise ValueError(f"{text!r:.80} is no place in a list of runs")
        return cls(int(at), run_id)


@dataclass(frozen=True, slots=True)
class RunPage:
    """The runs of one page in the list's order; `before` and `after` are where its neighbours end and begin."""

    runs: list[Run]
    before: Place | None = None
    after: Place | None = None


def read_page(
    runs: Any, size: int, *, start: int = 0, after: Place | None = None, before: Place | None = None
) -> RunPage:
    """Read the page of the queryset `runs` that begins behind `after`, ends ahead of `before`, or begins at `start`."""
    if before is not None:
        found = list(runs.reverse().behind(before.at, before.run_id)[: size + 1])
        if len(found) > size:
            return _page(found[:size][::-1], has_before=True, has_after=True)
        after = None  # the top of the list has room for more than these
    if after is not None:
        found = list(runs.behind(after.at, after.run_id)[: size + 1])
    else:
        found = list(runs[start : start + size + 1])
    return _page(found[:size], has_before=bool(after or start), has_after=len(found) > size)


def _page(runs: list[Run], *, has_before: bool, has_after: bool) -> RunPage:
    if not runs:
        return RunPage(runs)
    return RunPage(runs, Place.of(runs[0]) if has_before else None, Place.of(runs[-1]) if has_after else None)
