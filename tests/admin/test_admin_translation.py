"""The pages in another language: our own strings are looked up in catalogs, and numbers are written as it does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery_stackstate_admin import present
from celery_stackstate_admin.runpage.axis import axis_of
from django.test import Client, override_settings
from django.utils import translation
from django.utils.translation import trans_real

from tests.admin.acting import ask
from tests.admin.pages import RUNS, STATE, change, text
from tests.admin.people import who_may
from tests.admin.seeds import NOON, write_run
from tests.admin.stories import settled

HEADER = "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n"
#: From templates, from code at import time and at run time, with numbers and with a context.
GERMAN = {
    "": HEADER,
    "Timeline": "Zeitleiste",
    "By key or origin": "Nach Schlüssel oder Herkunft",
    "retries": "Wiederholungen",
    "Queued": "Eingereiht",
    "%(count)s run\0%(count)s runs": "%(count)s Lauf\0%(count)s Läufe",
    "in %(number)d attempt\0in %(number)d attempts": "in %(number)d Versuch\0in %(number)d Versuchen",
    "Delete this run?\0Delete these %(number)s runs?": "Diesen Lauf löschen?\0Diese %(number)s Läufe löschen?",
    "No, take me back": "Nein, zurück",
    "App-wide keys": "Schlüssel der App",
    "minutes\4%(number)s min": "%(number)s Min.",
}


def compiled(catalog: dict[str, str]) -> bytes:
    """Return a catalog in the form that msgfmt writes."""
    pairs = sorted((one.encode(), other.encode()) for one, other in catalog.items())
    start, texts = 28 + 16 * len(pairs), b""
    tables: list[list[bytes]] = [[], []]
    for table, column in zip(tables, zip(*pairs, strict=True), strict=True):
        for one in column:
            table.append(struct.pack("<II", len(one), start + len(texts)))
            texts += one + b"\0"
    header = struct.pack("<IIIIIII", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(b"".join(table) for table in tables) + texts


@pytest.fixture
def in_german(tmp_path: Path) -> Iterator[None]:
    """Show the pages in German, by a catalog of the project's."""
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.mo").write_bytes(compiled(GERMAN))
    vars(trans_real)["_translations"].clear()
    with override_settings(LOCALE_PATHS=[str(tmp_path)], LANGUAGE_CODE="de"), translation.override("de"):
        yield
    vars(trans_real)["_translations"].clear()


@pytest.mark.usefixtures("in_german")
def test_our_own_strings_come_from_the_catalogs(shop: object, viewer: Client) -> None:
    settled("done")
    write_run("second", queued=NOON)

    listed, page = text(viewer.get(RUNS)), text(viewer.get(change(RUNS, "done")))
    question = text(ask(who_may("view_run", "delete_run"), RUNS, "delete", "second"))

    for said in ("Nach Schlüssel oder Herkunft", "Wiederholungen", "2 Läufe"):
        assert said in listed
    for said in ("Zeitleiste", "Eingereiht", "in 3 Versuchen"):
        assert said in page
    for said in ("Diesen Lauf löschen?", "Nein, zurück"):
        assert said in question
    assert present.duration(125) == "2 Min. 5 s"


@pytest.mark.usefixtures("in_german")
def test_state_is_shown_in_the_language_of_the_reader(shop: object, viewer: Client) -> None:
    shop.state.set("k", 1)  # type: ignore[attr-defined]

    assert "Schlüssel der App" in text(viewer.get(STATE))


@pytest.mark.parametrize(
    ("language", "value", "shown"),
    [
        ("en", 1234567, "1,234,567"),
        ("en", 0.5, "0.50"),
        ("de", 1234567, "1.234.567"),
        ("de", 1234.5, "1.234,50"),
        ("de", 9_007_199_254_740_993, "9.007.199.254.740.993"),
        ("en", float("inf"), "inf"),
        ("de", -0.125, "-0,12"),
    ],
)
def test_numbers_are_written_as_the_language_does(language: str, value: float, shown: str) -> None:
    with translation.override(language):
        assert present.number(value) == shown


def test_times_are_written_as_the_language_does() -> None:
    with translation.override("de"):
        assert present.duration(12.08) == "12,1 s"
        _, ticks = axis_of(NOON, NOON.replace(second=2))

    assert ticks[1].label == "+0,2 s"
