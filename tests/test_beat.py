"""The due time of a beat entry: as Celery reckons it, the same for every beat, and with real beats."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, signals
from celery.beat import PersistentScheduler, Scheduler, Service
from celery.schedules import BaseSchedule, crontab, schedule
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_stackstate import ConfigurationError, StateTask, beat
from celery_stackstate.beat import current_due, due_time
from celery_stackstate.header import HEADER, read_key
from tests.nodes import ProcessContainer, RedisProcess
from tests.waiting import wait_for
from tests.worker.probes import messages

UTC = timezone.utc
MINUTE = timedelta(minutes=1)
BERLIN = "Europe/Berlin"
LONDON = "Europe/London"


def app_in(zone: str) -> Celery:
    app = Celery("beats", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.timezone = zone
    return app


def cron(spec: str, app: Celery, now: Callable[[], datetime] | None = None) -> Any:
    minute, hour, day, month, weekday = spec.split()
    return crontab(minute, hour, weekday, day, month, app=app, nowfun=now)


def at(text: str, zone: str) -> datetime:
    """Return an instant, with or without an offset, as the clock of a zone shows it."""
    given = datetime.fromisoformat(text)
    return given.replace(tzinfo=ZoneInfo(zone)) if given.tzinfo is None else given.astimezone(ZoneInfo(zone))


# -- crontabs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "zone", "now", "due"),
    [
        ("0 3 * * *", "UTC", "2026-11-22T03:00:00", "2026-11-22T03:00:00+00:00"),
        ("0 3 * * *", "UTC", "2026-11-22T02:59:59.999999", "2026-11-21T03:00:00+00:00"),
        ("0 3 * * *", "UTC", "2026-11-22T03:00:00.004", "2026-11-22T03:00:00+00:00"),
        ("* * * * *", "UTC", "2026-11-22T00:00:59.900", "2026-11-22T00:00:00+00:00"),
        ("*/15 9-17 * * *", "UTC", "2026-11-22T08:00:00", "2026-11-21T17:45:00+00:00"),
        ("10,50 * * * *", "UTC", "2026-01-01T00:09:00", "2025-12-31T23:50:00+00:00"),
        ("0 3 * * mon", "UTC", "2026-11-22T12:00:00", "2026-11-16T03:00:00+00:00"),
        ("0 3 * * sun", "UTC", "2026-11-22T02:00:00", "2026-11-15T03:00:00+00:00"),
        ("0 3 1 * *", "UTC", "2026-11-22T12:00:00", "2026-11-01T03:00:00+00:00"),
        ("0 3 31 * *", "UTC", "2026-10-30T12:00:00", "2026-08-31T03:00:00+00:00"),
        ("0 3 1-7 * mon", "UTC", "2026-11-22T12:00:00", "2026-11-02T03:00:00+00:00"),
        ("0 3 * 2,3 *", "UTC", "2026-11-22T12:00:00", "2026-03-31T03:00:00+00:00"),
        ("59 23 31 12 *", "UTC", "2026-11-22T12:00:00", "2025-12-31T23:59:00+00:00"),
        ("0 0 29 2 *", "UTC", "2026-11-22T12:00:00", "2024-02-29T00:00:00+00:00"),
        ("0 0 29 2 mon", "UTC", "2026-11-22T12:00:00", "2016-02-29T00:00:00+00:00"),
        # the app's timezone
        ("30 0 * * *", BERLIN, "2026-07-01T22:29:00+00:00", "2026-07-01T00:30:00+02:00"),
        ("30 0 * * *", BERLIN, "2026-07-01T22:30:00+00:00", "2026-07-02T00:30:00+02:00"),
        ("30 0 * * *", "Asia/Kolkata", "2026-07-01T19:00:00+00:00", "2026-07-02T00:30:00+05:30"),
        # 2:00 to 3:00 is skipped; Celery 5.5.0 sends soon after that, and newer ones at 3:30
        ("30 2 * * *", BERLIN, "2026-03-29T00:59:59+00:00", "2026-03-28T02:30:00+01:00"),
        ("30 2 * * *", BERLIN, "2026-03-29T01:00:00+00:00", "2026-03-29T02:30:00+01:00"),
        ("30 2 * * *", BERLIN, "2026-03-29T01:30:00+00:00", "2026-03-29T02:30:00+01:00"),
        ("0 3 * * *", BERLIN, "2026-03-29T01:00:00+00:00", "2026-03-29T03:00:00+02:00"),
        ("* * * * *", BERLIN, "2026-03-29T01:00:30+00:00", "2026-03-29T03:00:00+02:00"),
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T22:00:00+00:00", "2026-04-24T00:00:00+02:00"),
        # 2:00 to 3:00 is there twice
        ("30 2 * * *", BERLIN, "2026-10-25T00:29:59+00:00", "2026-10-24T02:30:00+02:00"),
        ("30 2 * * *", BERLIN, "2026-10-25T00:30:00+00:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", BERLIN, "2026-10-25T01:10:00+00:00", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", BERLIN, "2026-10-25T01:40:00+00:00", "2026-10-25T02:30:00+02:00"),
        ("5 3 * * *", BERLIN, "2026-10-25T01:10:00+00:00", "2026-10-24T03:05:00+02:00"),
        ("* * * * *", BERLIN, "2026-10-25T01:10:00+00:00", "2026-10-25T02:59:00+02:00"),
        ("* * * * *", BERLIN, "2026-10-25T02:00:00+00:00", "2026-10-25T03:00:00+01:00"),
    ],
)
def test_a_crontab_was_due_at_its_newest_moment(spec: str, zone: str, now: str, due: str) -> None:
    found = due_time(cron(spec, app_in(zone)), at(now, zone))
    assert found.isoformat() == due
    assert found.tzinfo == ZoneInfo(zone)


def test_a_crontab_with_a_timezone_of_its_own_is_due_in_that() -> None:
    class Tokyo(crontab):  # as django-celery-beat's TzAwareCrontab
        tz = ZoneInfo("Asia/Tokyo")

        def now(self) -> datetime:
            return at("2026-11-21T18:00:00+00:00", "Asia/Tokyo")

    entry = Tokyo(hour=3, minute=0, app=app_in("UTC"))
    assert due_time(entry, entry.now()).isoformat() == "2026-11-22T03:00:00+09:00"


def test_a_crontab_is_read_in_the_timezone_in_which_celery_reads_it() -> None:
    clock = at("2026-07-01T00:10:00", "UTC")  # of a nowfun; Celery 5.7 reads it in the app's timezone, 5.6 as it is
    entry, start = cron("0 3 * * *", app_in(BERLIN), lambda: clock), clock
    while not entry.is_due(start)[0]:
        clock += 10 * MINUTE
    assert due_time(entry, clock) == clock.replace(minute=0)


FIELDS = {
    "minute": st.just("*") | st.sets(st.integers(0, 59), min_size=1, max_size=4),
    "hour": st.just("*") | st.sets(st.integers(0, 23), min_size=1, max_size=4),
    "day_of_week": st.just("*") | st.sets(st.integers(0, 6), min_size=1),
    "day_of_month": st.just("*") | st.sets(st.integers(1, 28), min_size=1) | st.just({29, 30, 31, 1}),
    "month_of_year": st.just("*") | st.sets(st.integers(1, 12), min_size=1),
}
MOMENTS = st.datetimes(datetime(2019, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))
ZONES = st.sampled_from(["UTC", BERLIN, "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata"])
APPS = {zone: app_in(zone) for zone in ("UTC", BERLIN, "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata")}


def next_of_celery(entry: Any, moment: datetime) -> datetime:
    """Return the moment after another one at which Celery would send the entry."""
    entry.nowfun = lambda: moment
    start, step, _ = entry.remaining_delta(moment)
    following: datetime = start + step
    return following


@given(fields=st.fixed_dictionaries(FIELDS), now=MOMENTS)
def test_a_due_time_is_the_last_one_in_the_row_that_celery_makes(fields: dict[str, Any], now: datetime) -> None:
    entry = crontab(**fields, app=APPS["UTC"])
    due = due_time(entry, now)
    assert next_of_celery(entry, due - MINUTE) == due <= now < next_of_celery(entry, due)


@given(fields=st.fixed_dictionaries(FIELDS), zone=ZONES, now=MOMENTS, earlier=st.floats(0, 1))
@example({}, BERLIN, at("2026-10-25T01:59:00+00:00", "UTC"), 0.5)
@example({"hour": 2}, BERLIN, at("2026-03-29T01:50:00+00:00", "UTC"), 0.1)
def test_all_moments_of_a_period_have_one_due_time(
    fields: dict[str, Any], zone: str, now: datetime, earlier: float
) -> None:
    entry = crontab(**fields, app=APPS[zone])
    due = due_time(entry, now.astimezone(ZoneInfo(zone)))
    since = min(due.astimezone(UTC), now)
    before = since + (now - since) * earlier
    assert due_time(entry, before.astimezone(ZoneInfo(zone))) == due
    assert (due.second, due.microsecond, due.fold) == (0, 0, 0)


def sent(spec: str, zone: str, start: datetime, end: datetime, last_run: datetime) -> list[str]:
    """Return the due times that one beat gets which ticks as `celery beat` does."""
    clock = start
    entry = cron(spec, APPS[zone], lambda: clock.astimezone(ZoneInfo(zone)))
    last, found = last_run.astimezone(ZoneInfo(zone)), []
    while clock < end:
        due, wait = entry.is_due(last)
        if due:
            last = entry.now()
            found.append(due_time(entry, last).isoformat())
        clock += timedelta(seconds=min(max(wait, 20), 300))
    return found


@pytest.mark.parametrize("spec", ["30 2 * * *", "*/15 2 * * *", "*/20 * * * *", "0 0 * * *", "15 1,3 * * *"])
@pytest.mark.parametrize("day", ["2026-03-28", "2026-06-01", "2026-10-24"])
def test_a_beat_never_gets_a_due_time_twice_and_one_that_starts_late_gets_the_same(spec: str, day: str) -> None:
    # given a beat that goes on over a night in which the clock may change
    start = at(f"{day}T22:00:00", BERLIN).astimezone(UTC)
    end = start + timedelta(hours=7)
    steady = sent(spec, BERLIN, start, end, start)
    assert max(Counter(steady).values()) == 1

    # when others start later, without a memory, or with an old one
    for hours in (2.1, 3.2, 3.6, 4.2, 4.7, 5.3):
        for last_run in (start + timedelta(hours=hours), start - timedelta(hours=30)):
            begin = start + timedelta(hours=hours)
            late = sent(spec, BERLIN, begin, begin + timedelta(hours=1), last_run)
            assert {due for due in late if datetime.fromisoformat(due) >= start} <= set(steady)


# -- intervals and others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "relative", "zone", "now", "due"),
    [
        (30, False, "UTC", "2026-11-22T03:00:29.999999", "2026-11-22T03:00:00+00:00"),
        (30, False, "UTC", "2026-11-22T03:00:30", "2026-11-22T03:00:30+00:00"),
        (0.25, False, "UTC", "2026-11-22T03:00:00.600", "2026-11-22T03:00:00.500000+00:00"),
        (7, False, "UTC", "1970-01-01T00:00:20", "1970-01-01T00:00:14+00:00"),
        (86400, False, BERLIN, "2026-11-22T03:00:00", "2026-11-22T01:00:00+01:00"),
        (3600, False, BERLIN, "2026-10-25T00:10:00+00:00", "2026-10-25T02:00:00+02:00"),
        (3600, False, BERLIN, "2026-10-25T01:10:00+00:00", "2026-10-25T02:00:00+01:00"),
        # Celery sends these at whole days, hours or minutes of the local clock
        (86400, True, BERLIN, "2026-11-22T00:00:00", "2026-11-22T00:00:00+01:00"),
        (86400, True, LONDON, "2026-03-29T00:00:00", "2026-03-29T00:00:00+00:00"),
        (86400, True, LONDON, "2026-03-30T00:00:00", "2026-03-30T00:00:00+01:00"),
        (86400 * 1.5, True, "UTC", "2026-11-22T05:00:00", "2026-11-22T00:00:00+00:00"),
        (5400, True, "UTC", "2026-11-22T05:20:00", "2026-11-22T05:00:00+00:00"),
        (90, True, "UTC", "2026-11-22T05:20:59", "2026-11-22T05:20:00+00:00"),
        (30, True, "UTC", "2026-11-22T05:20:59", "2026-11-22T05:20:30+00:00"),
        (0, False, "UTC", "2026-11-22T05:20:59", "2026-11-22T05:20:00+00:00"),
    ],
)
def test_an_interval_was_due_at_its_begin(every: float, relative: bool, zone: str, now: str, due: str) -> None:
    entry = schedule(every, relative=relative, app=app_in(zone))
    assert due_time(entry, at(now, zone)).isoformat() == due


@given(every=st.timedeltas(timedelta(milliseconds=1), timedelta(days=40)), now=MOMENTS, later=st.floats(0, 0.999))
def test_all_moments_of_an_interval_have_one_due_time(every: timedelta, now: datetime, later: float) -> None:
    entry = schedule(every, app=APPS["UTC"])
    due = due_time(entry, now)
    assert due <= now < due + every
    assert due_time(entry, due + every * later) == due
    assert due_time(entry, due + every) == due + every


@settings(max_examples=20)
@given(zone=st.sampled_from(["UTC", BERLIN]), start=MOMENTS, every=st.timedeltas(MINUTE, timedelta(days=3)))
def test_a_relative_interval_never_gets_a_due_time_twice(zone: str, start: datetime, every: timedelta) -> None:
    clock = start.astimezone(ZoneInfo(zone))
    entry = schedule(every, relative=True, app=APPS[zone], nowfun=lambda: clock)
    found = []
    for _ in range(5):
        wait = entry.remaining_estimate(clock)
        clock = (clock.astimezone(UTC) + max(wait, MINUTE)).astimezone(ZoneInfo(zone))
        found.append(due_time(entry, clock))
    assert max(Counter(found).values()) == 1


def test_of_other_schedules_only_the_minute_is_known() -> None:
    class Sometimes(BaseSchedule):
        pass

    entry = Sometimes(app=app_in(BERLIN))
    assert due_time(entry, at("2026-11-22T05:20:59.900", BERLIN)).isoformat() == "2026-11-22T05:20:00+01:00"
    naive = datetime(2026, 11, 22, 5, 20, 59)  # of a nowfun; Celery takes it for UTC
    assert due_time(entry, naive).isoformat() == "2026-11-22T06:20:00+01:00"


# -- what a scheduler sends ----------------------------------------------------------------------------------------


class Recording(Scheduler):
    """A scheduler of a project's own, which says what it is asked to send."""

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        self.seen = (current_due(), producer, advance, kwargs)
        if entry.name == "failing":
            raise ValueError("no broker")
        return "sent"


@pytest.fixture
def scheduler() -> Any:
    service = Service(app_in(BERLIN), scheduler_cls=Recording)
    beat.connect()
    signals.beat_init.send(sender=service)
    signals.beat_embedded_init.send(sender=service)
    return service.scheduler


def test_the_due_time_is_known_while_an_entry_is_sent(scheduler: Any) -> None:
    entry = scheduler.add(name="nightly", task="report", schedule=crontab(hour=3, minute=0))
    assert current_due() is None
    assert scheduler.apply_async(entry, producer="producer", advance=False, more=1) == "sent"
    due, *given = scheduler.seen
    assert given == ["producer", False, {"more": 1}]
    assert (due.hour, due.minute, due.tzinfo) == (3, 0, ZoneInfo(BERLIN))
    assert timedelta(0) <= datetime.now(UTC) - due < timedelta(hours=26)
    assert current_due() is None


def test_an_error_of_the_scheduler_is_raised_and_ends_the_due_time(scheduler: Any) -> None:
    entry = scheduler.add(name="failing", task="report", schedule=60)
    with pytest.raises(ValueError, match="no broker"):
        scheduler.apply_async(entry)
    assert scheduler.seen[0] is not None
    assert current_due() is None


def test_both_signals_wrap_once(scheduler: Any) -> None:
    assert scheduler.apply_async._original == Recording.apply_async.__get__(scheduler)


def test_a_schedule_that_raises_is_logged_and_sent_with_the_present_minute(
    scheduler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(BaseSchedule):
        def maybe_make_aware(self, *args: Any, **kwargs: Any) -> datetime:
            raise RuntimeError("broken")

    entry = scheduler.add(name="odd", task="report", schedule=Broken())
    assert scheduler.apply_async(entry) == "sent"
    due = scheduler.seen[0]
    assert (due.second, due.microsecond) == (0, 0)
    assert timedelta(0) <= datetime.now(UTC) - due < 2 * MINUTE
    assert "cannot tell when 'odd' was due" in caplog.text


def monthly(due: datetime) -> str:
    return f"monthly:{due:%Y-%m}"


def nothing() -> None:
    pass


def test_the_key_of_an_entry_is_made_of_its_due_time() -> None:
    app = app_in("UTC")
    app.conf.stackstate_url = "memory://"
    report = app.task(name="report", base=StateTask)(nothing)
    service = Service(app, scheduler_cls=Scheduler)
    signals.beat_init.send(sender=service)
    options = {"idempotency_key": monthly}
    entries = [
        service.scheduler.add(name=name, task=name, schedule=crontab("0", "0", day_of_month="1"), options=options)
        for name in ("report", "another")
    ]
    ids = [[service.scheduler.apply_async(entry, advance=False).id for _ in range(2)] for entry in entries]
    assert [len(set(pair)) for pair in ids] == [1, 1]
    with pytest.raises(ConfigurationError, match="beat entry"):
        report.apply_async(idempotency_key=monthly)


@pytest.mark.parametrize("key", [monthly, lambda due: "k"], ids=["function", "lambda"])
def test_the_default_scheduler_stores_a_function_of_a_module_and_no_lambda(key: Any, tmp_path: Path) -> None:
    app = app_in("UTC")
    app.conf.beat_schedule = {"entry": {"task": "report", "schedule": 60, "options": {"idempotency_key": key}}}
    make: Callable[[], Any] = lambda: PersistentScheduler(app, schedule_filename=str(tmp_path / "schedule"))  # noqa: E731
    if key is monthly:
        for _ in range(2):
            scheduler = make()
            assert scheduler.schedule["entry"].options == {"idempotency_key": monthly}
            scheduler.close()
    else:
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            make()


# -- real beats ----------------------------------------------------------------------------------------------------


class BeatProcess(ProcessContainer):
    """A `celery beat` with a schedule file of its own."""

    def __init__(self, directory: Path, name: str, env: dict[str, str]) -> None:
        super().__init__("beat", [], directory, prompt="beat: Starting...", env=env)
        self._files = directory, f"schedule-{name}"
        self.command = [sys.executable, "-m", "celery", "-A", "tests.worker.app_beat", "beat", "--loglevel", "INFO"]
        self.command += ["--pidfile=", "--schedule", str(directory / self._files[1])]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def forget(self) -> None:
        """Delete the schedule file, as a container does that is replaced."""
        directory, name = self._files
        files = list(directory.glob(f"{name}*"))
        assert files
        for file in files:
            file.unlink()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """What the beats asked for, a line for each time."""
    file = tmp_path / "asked"
    file.touch()
    return file


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    server = RedisProcess(tmp_path)
    server.start()
    try:
        server.ready()
        yield server.celeryconfig["url"]
    finally:
        server.teardown()


@pytest.fixture
def beats(tmp_path: Path, broker: str, asked: Path) -> Iterator[list[BeatProcess]]:
    """Two beats that have not been started."""
    env = {
        "STACKSTATE_TEST_BROKER": broker,
        "STACKSTATE_TEST_STORE": broker.removesuffix("0") + "1",
        "STACKSTATE_TEST_ASKED": str(asked),
        "STACKSTATE_TEST_HOUR": str((datetime.now(UTC).hour - 2) % 24),
    }
    found = [BeatProcess(tmp_path, name, env) for name in "ab"]
    yield found
    for one in found:
        one.teardown()


def test_two_beats_and_one_that_was_killed_and_forgot_enqueue_once(
    beats: list[BeatProcess], broker: str, asked: Path
) -> None:
    def requests(process: BeatProcess, entry: str) -> int:
        return asked.read_text().count(f"{process.pid} {entry}:")

    def wait_for_slots(process: BeatProcess, count: int) -> None:
        wait_for(lambda: requests(process, "slot") >= count, message=f"{count} slots", timeout=20, node=process)

    # given two beats
    first, second = beats
    for process in beats:
        process.start()
    for process in beats:
        wait_for_slots(process, 2)
        assert requests(process, "daily") == 1

    # when one is killed, just after it has sent something, and comes back without its schedule
    wait_for_slots(first, requests(first, "slot") + 1)
    published = Celery(broker=broker, set_as_current=False)
    wait_for(lambda: keys(published) == wanted(asked), message="its message")
    first.kill()
    first.forget()
    first.start()
    wait_for_slots(first, 2)
    assert requests(first, "daily") == 1
    wait_for_slots(second, requests(second, "slot") + 1)

    # then there is one message for each due time, whoever asked for it and how often
    wait_for(lambda: keys(published) == wanted(asked), message="one message for each due time", node=second)
    often = Counter(line.split(" ")[1] for line in asked.read_text().splitlines())
    (daily,) = (count for key, count in often.items() if key.startswith("daily:"))
    assert daily == 3
    assert sum(count > 1 for count in often.values()) >= 3
    for process in beats:
        assert "Error" not in process.logs()


def keys(app: Celery) -> list[str]:
    """Return the keys of all messages in the queue."""
    return sorted(str(read_key(message.headers[HEADER])) for message in messages(app))


def wanted(asked: Path) -> list[str]:
    """Return each key once for which the beats asked."""
    return sorted({line.split(" ")[1] for line in asked.read_text().splitlines()})
