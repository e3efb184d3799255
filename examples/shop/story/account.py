"""The account on the terminal: chapters, what was sent, each run with its attempts and events, and what was checked."""

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from celery_stackstate import Attempt, Event, Run
from celery_stackstate.records import LOST

WIDTH = 78
BAR = 22
COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}
STATUS_COLOURS = {"SUCCESS": "green", "FAILURE": "red", "LOST": "red", "RETRY": "yellow", "STARTED": "blue"}
HIDDEN = ("received", "started")  # the table of attempts says it


class Account:
    """Prints the story as it goes, and remembers what was not as it should be."""

    def __init__(self) -> None:
        self.checked = 0
        self.wrong: list[str] = []
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._yes, self._no, self._block, self._rule = ("✓", "✗", "█", "─") if unicode else ("ok", "NO", "#", "-")
        self._chapters = 0

    # -- telling -------------------------------------------------------------------------------------------------------

    def title(self, text: str, below: str) -> None:
        """Begin."""
        self._print(f"\n{self._paint(text, 'bold')}\n{self._paint(below, 'dim')}")

    def chapter(self, title: str, about: str) -> None:
        """Begin a chapter and say what it is about."""
        self._chapters += 1
        heading = f"{self._chapters}  {title} "
        self._print(f"\n\n{self._paint(heading, 'bold')}{self._paint(self._rule * (WIDTH - len(heading)), 'dim')}\n")
        self.say(about)

    def say(self, text: str) -> None:
        """Tell something, in a paragraph."""
        self._print(_fill(text, "   ", "   "))

    def sent(self, what: str, answer: str) -> None:
        """Tell what was sent and what came back."""
        self._print(f"     {what:<38} {self._paint('->', 'dim')} {answer}")

    def gap(self) -> None:
        """Leave a line empty."""
        self._print("")

    def facts(self, facts: Mapping[str, str]) -> None:
        """List names and values."""
        width = max(map(len, facts))
        for name, value in facts.items():
            self._print(f"     {self._paint(name.ljust(width), 'dim')}  {self._paint(value, 'bold')}")

    def command(self, *lines: str) -> None:
        """Show what to type."""
        for line in lines:
            self._print(f"     {self._paint(line, 'bold')}")

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run(self, run: Run, events: Iterable[Event]) -> None:
        """Show a run: its attempts, drawn on one axis of time, and its events."""
        begin = run.queued_at or datetime.now().astimezone()
        end = max((attempt.finished_at or begin for attempt in run.attempts), default=begin)
        name = (run.task or "").rpartition(".")[2]
        self.gap()
        status = self._paint(run.status, STATUS_COLOURS.get(run.status, "blue"), "bold")
        self._print(f"   {self._paint(name, 'bold')}  {status}  {self._paint(f'run {short(run.id)}', 'dim')}")
        if run.key:
            self._print(self._paint(f"     key {run.key}", "dim"))
        length = (end - begin).total_seconds()
        axis = f"{0:<{BAR - 8}}{length:6.2f} s"
        self._print(self._paint(f"     try  status     pid       waited       ran   {axis}", "dim"))
        for attempt in run.attempts:
            self._attempt(attempt, self._bar(attempt, begin, length))
        for event in events:
            if event.name not in HIDDEN:
                self._event(event, begin)

    def _attempt(self, attempt: Attempt, bar: str) -> None:
        colour = STATUS_COLOURS.get(attempt.status, "blue")
        status = self._paint(f"{attempt.status:<9}", colour)
        ran = seconds(attempt.runtime, at_most=attempt.status == LOST)
        times = f"{seconds(attempt.wait)} {ran}"
        self._print(f"     {attempt.number:>3}  {status}  {attempt.pid or '':<7} {times}   {self._paint(bar, colour)}")

    def _bar(self, attempt: Attempt, begin: datetime, length: float) -> str:
        if attempt.started_at is None or not length:
            return ""
        start = (attempt.started_at - begin).total_seconds() / length
        share = (attempt.runtime or 0) / length
        first = min(BAR - 1, int(start * BAR))
        return " " * first + self._block * max(1, min(BAR - first, round(share * BAR)))

    def _event(self, event: Event, begin: datetime) -> None:
        after = (event.at - begin).total_seconds()
        line = f"     {self._paint(f'{after:7.2f} s', 'dim')}  {event.name:<15}  {_shorten(details(event), WIDTH - 34)}"
        self._print(line.rstrip())

    # -- checking ------------------------------------------------------------------------------------------------------

    def check(self, true: Any, claim: str) -> None:
        """Say whether a claim of the story holds."""
        self.checked += 1
        mark = self._paint(self._yes, "green") if true else self._paint(self._no, "red", "bold")
        self._print(_fill(claim, "   {} ", "     ").replace("{}", mark, 1))
        if not true:
            self.wrong.append(claim)

    def failure(self, reason: str) -> None:
        """Note that the story could not go on."""
        self.wrong.append(reason)
        self._print(f"\n   {self._paint(self._no, 'red', 'bold')} {reason}")

    def verdict(self) -> None:
        """Say how it all went."""
        self.gap()
        if not self.wrong:
            self._print(self._paint(f"   All {self.checked} checks hold.", "green", "bold"))
            return
        self._print(self._paint(f"   Not as it should be ({len(self.wrong)}):", "red", "bold"))
        for claim in self.wrong:
            self._print(_fill(claim, "   - ", "     "))

    def log(self, name: str, text: str, lines: int = 40) -> None:
        """Show the end of a process's log."""
        self._print(f"\n   {self._paint(f'the last lines of {name}', 'bold')}")
        for line in text.splitlines()[-lines:]:
            self._print(f"   {self._paint('|', 'dim')} {line}")

    def _paint(self, text: str, *styles: str) -> str:
        if not self._colour:
            return text
        return f"\033[{';'.join(COLOURS[style] for style in styles)}m{text}\033[0m"

    @staticmethod
    def _print(text: str) -> None:
        print(text, flush=True)


def short(run_id: str) -> str:
    """Return the part of a run's id by which people tell runs apart."""
    return run_id[:8]


def seconds(value: float | None, *, at_most: bool = False) -> str:
    """Return a duration in a column of nine; of a lost attempt it is only known when the loss was noticed."""
    text = "-" if value is None else f"{'< ' if at_most else ''}{value:.2f} s"
    return f"{text:>9}"


def details(event: Event) -> str:
    """Return what an event says, in one line."""
    data = event.data
    if event.name == "progress":
        return f"{data['done']} of {data['total']}"
    if "error" in data:
        return str(data["error"])
    if event.name == "queued":
        return f"for retry {data['retries']}" if data.get("retries") else "for later" if data.get("eta") else ""
    if event.name == "success":
        return "" if data.get("result") is None else f"returned {data['result']}"
    return ", ".join(f"{name} {value}" for name, value in data.items())


def _fill(text: str, first: str, others: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
