"""The cells under a run's header."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext, ngettext

from celery_stackstate.records import STARTED, Run
from celery_stackstate_admin import present


@dataclass(frozen=True, slots=True)
class Fact:
    """One cell under the header."""

    label: str
    value: Any
    note: str = ""
    url: str = ""
    mono: bool = False


def default_facts(run: Run, now: datetime) -> list[Fact]:
    """Return the cells that need no link: when it was queued, how long it waited and ran until `now`, who asked."""
    place = " · ".join(present.line(part, 80) for part in (run.queue, run.worker) if part)
    facts = [
        Fact(gettext("Queued"), present.clock(run.queued_at, precise=True)),
        Fact(gettext("Waited"), present.duration(run.attempts[0].wait if run.attempts else None)),
        Fact(gettext("Ran"), _ran(run, now), _in_attempts(len(run.attempts))),
        Fact(gettext("Queue · worker"), place or present.NOTHING),
        Fact(
            gettext("Key"),
            present.line(run.key, 200) if run.key else present.NOTHING,
            _duplicates(run) if run.key else "",
            mono=bool(run.key),
        ),
        Fact(gettext("Sent by"), _sender(run)),
    ]
    return [*facts, *_seldom(run)]


def _seldom(run: Run) -> list[Fact]:
    """Return the cells that most runs have no need of."""
    facts = []
    if run.duplicates and not run.key:
        facts.append(Fact(gettext("Duplicates"), _duplicates(run)))
    if run.chain is not None:
        place = gettext("%(position)d of %(total)d") % {"position": run.chain.position, "total": run.chain.total}
        facts.append(Fact(gettext("Chain"), place))
    if run.eta is not None:
        facts.append(Fact(gettext("Not before"), present.clock(run.eta)))
    if run.expires is not None:
        facts.append(Fact(gettext("Expires"), present.clock(run.expires)))
    if run.priority is not None:
        facts.append(Fact(gettext("Priority"), str(run.priority)))
    return facts


def _duplicates(run: Run) -> str:
    text = ngettext("%(number)s suppressed duplicate", "%(number)s suppressed duplicates", run.duplicates)
    return text % {"number": present.number(run.duplicates)} if run.duplicates else ""


def _ran(run: Run, now: datetime) -> str:
    times = [attempt.runtime for attempt in run.attempts if attempt.runtime is not None]
    began = run.attempts[-1].started_at if run.attempts and run.status == STARTED else None
    if began is not None and run.attempts[-1].status == STARTED:
        return present.so_far(present.duration(sum(times) + (now - began).total_seconds()))
    return present.duration(sum(times) if times else None)


def _in_attempts(number: int) -> str:
    text = ngettext("in %(number)d attempt", "in %(number)d attempts", number)
    return text % {"number": number} if number > 1 else ""


def _sender(run: Run) -> str:
    if run.publisher is None:
        return present.line(run.origin, 120) if run.origin else present.NOTHING
    sender = run.publisher
    place = gettext("%(program)s on %(host)s (pid %(pid)s)") % {
        "program": sender.program,
        "host": sender.host,
        "pid": sender.pid,
    }
    return present.line(", ".join(part for part in (place, sender.origin) if part), 200)
