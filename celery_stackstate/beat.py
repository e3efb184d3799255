"""When the beat entry that is being sent was due, from which an entry's callable idempotency key is made.

    def nightly(due: datetime) -> str:
        return f"report:{due:%Y-%m-%d}"

    beat_schedule = {
        "nightly": {"task": "report", "schedule": crontab(hour=3), "options": {"idempotency_key": nightly}}
    }

All beats make the same of one schedule and one moment, whatever they did before: two of them, or one that was
restarted, enqueue once. The callable must be a function of a module, no lambda: beat's default scheduler pickles it,
and does not start with a schedule file in which there is a function that has been renamed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from celery import Task, schedules, shared_task, signals

from celery_stackstate.attached import extension_of
from celery_stackstate.errors import ConfigurationError

logger = logging.getLogger(__name__)

#: An entry of a beat schedule that deletes what is beyond its retention, where the workers do not see to it:
#: `beat_schedule = {"stackstate-purge": celery_stackstate.beat.PURGE}`.
PURGE: Mapping[str, Any] = {"task": "celery_stackstate.purge", "schedule": 300.0, "options": {"expires": 300.0}}

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
UNITS = (DAY, timedelta(hours=1), timedelta(minutes=1))

_due: ContextVar[datetime | None] = ContextVar("celery_stackstate.beat", default=None)


@shared_task(bind=True, base=Task, name=PURGE["task"], ignore_result=True)  # type: ignore[untyped-decorator]
def purge(self: Any, limit: int = 10_000) -> int:
    """Delete up to about `limit` ended entries and runs beyond their retention; return how many."""
    extension = extension_of(self.app)
    if extension is None:
        raise ConfigurationError(f"{self.app!r} has no celery-stackstate: call StackState(app)")
    return extension.purge(limit=limit)


def connect() -> None:
    """Let every beat that starts in this process tell `current_due`; connecting again changes nothing."""
    for signal in (signals.beat_init, signals.beat_embedded_init):
        signal.connect(on_beat_init, weak=False, dispatch_uid="celery_stackstate.beat")


def on_beat_init(sender: Any = None, **_: Any) -> None:
    """Put ourselves before the scheduler's `apply_async`, once: an embedded beat sends both signals."""
    scheduler = sender.scheduler
    if not isinstance(scheduler.apply_async, _Sending):
        scheduler.apply_async = _Sending(sender.app, scheduler.apply_async)


def current_due() -> datetime | None:
    """Return when the beat entry was due that is being sent in this context, aware; None outside beat."""
    return _due.get()


def due_time(schedule: Any, now: datetime) -> datetime:
    """Return the newest due time of a schedule that has come by `now`, in the timezone of the schedule.

    That is the app's timezone, unless the schedule has its own. For a crontab it is the newest moment that matches.
    Daylight saving time is as in Celery: of an hour that the clock shows twice only the first counts, and a moment
    that the clock skips has come when it was skipped. For an interval it is the begin of the present one, counted
    from 1970. For all others, such as `solar`, it is the present minute, so that two beats can disagree about them.
    """
    if isinstance(schedule, schedules.crontab):
        return _newest_match(schedule, schedule.remaining_delta(now)[0])  # now as Celery reads it for this crontab
    now = schedule.maybe_make_aware(now)
    if isinstance(schedule, schedules.schedule) and schedule.run_every > timedelta(0):
        return _begin_of_interval(schedule, now)
    return _minute(now)


class _Sending:
    """A scheduler's `apply_async`; while it sends an entry, `current_due` is known."""

    def __init__(self, app: Any, original: Any) -> None:
        self._app, self._original = app, original

    def __call__(self, entry: Any, *args: Any, **options: Any) -> Any:
        token = _due.set(self._due_of(entry))
        try:
            return self._original(entry, *args, **options)
        finally:
            _due.reset(token)

    def _due_of(self, entry: Any) -> datetime:
        try:
            return due_time(entry.schedule, entry.schedule.now())
        except Exception:
            name = getattr(entry, "name", None)
            logger.exception("celery-stackstate cannot tell when %r was due; taking the present minute", name)
            return _minute(self._app.now())


def _minute(now: datetime) -> datetime:
    return now.replace(second=0, microsecond=0)


def _newest_match(crontab: Any, now: datetime) -> datetime:
    for day in _days_back(crontab, now.date()):
        for hour in sorted(crontab.hour, reverse=True):
            if _has_come(datetime.combine(day, time(hour), now.tzinfo), now):
                moments = [datetime.combine(day, time(hour, minute), now.tzinfo) for minute in crontab.minute]
                come = [moment for moment in moments if _has_come(moment, now)]
                if come:
                    return max(come)
    raise AssertionError("the days back do not end")


def _days_back(crontab: Any, day: date) -> Iterator[date]:
    """Yield the days that match, the newest first."""
    while True:
        if day.month not in crontab.month_of_year:
            day = day.replace(day=1)  # and on with the month before
        elif day.day in crontab.day_of_month and day.isoweekday() % 7 in crontab.day_of_week:
            yield day
        day -= DAY


def _has_come(moment: datetime, now: datetime) -> bool:
    """Compare what the clock shows, as Python does within a timezone; when it shows an hour again, compare instants."""
    return moment <= now or (now.fold == 1 and moment.timestamp() <= now.timestamp())


def _begin_of_interval(schedule: Any, now: datetime) -> datetime:
    """Celery rounds a `relative` interval down to whole days (of the local calendar), hours or minutes."""
    every: timedelta = schedule.run_every
    if schedule.relative:
        every = next((every // unit * unit for unit in UNITS if every >= unit), every)
        if every >= DAY:
            local = EPOCH.replace(tzinfo=now.tzinfo)
            return local + (now - local) // every * every
    return (EPOCH + (now - EPOCH) // every * every).astimezone(now.tzinfo)
