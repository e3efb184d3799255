"""What is taken out of texts: values of sensitive names, passwords in URLs, private keys, payment card numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from celery_stackstate.value_scan import REDACTED, ValueScan

# A user may be a mail address; an address in brackets is none. A port is no password. What is one may hold an at sign
# and a single slash, but no end of a text in JSON.
_URL_PASSWORD = re.compile(
    r"""://(?!\[[\da-fA-F:.]+\])[^\s:/]*:(?!\d*(?:[/?#]|\Z))((?:[^\s/"']|/(?!/)|["'](?![\s,:;)\]}]))+)@"""
)
_PRIVATE_KEY = re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)")
_REST_OF_NAME = re.compile(r"[\w-]*")

# What has a point inside is no part of a card number, nor is a part of a longer number.
_DIGITS = re.compile(r"(?<!\d)(?<!\d\.)\d+(?!\d)(?!\.\d)")
_UUID = re.compile(r"(?<![\w-])[\da-fA-F]{8}-(?:[\da-fA-F]{4}-){3}[\da-fA-F]{12}(?![\w-])")
_MAYBE_A_CARD = re.compile(r"\d[\d\u00a0 -]{12}")
_BETWEEN = (" ", "\u00a0", "-")
_SHORTEST, _LONGEST = 13, 19


class TextRules:
    """Replaces in texts what the sensitive `words` mark, and what is a secret by its form."""

    def __init__(self, words: Sequence[str]) -> None:
        alternatives = sorted({re.escape(word.lower()) for word in words if word})
        self._word = re.compile("|".join(re.sub("_|\\\\-", "[ _-]?", word) for word in alternatives) or r"(?!)")

    def is_sensitive(self, name: str) -> bool:
        """Return whether the value of something called `name` is not to be recorded."""
        return self._word.search(_lowered(name)) is not None

    def apply(self, text: str, *, whole: bool = True) -> str:
        """Return `text` without secrets; not `whole` is one that was cut at its end."""
        return _without(text, [*self._values(text, whole), *_secrets_by_form(text)])

    def _values(self, text: str, whole: bool) -> Iterator[tuple[int, int]]:
        """Yield where the values of sensitive names are; a value may hold others, or reach into the next."""
        lowered, at, scan = _lowered(text), 0, ValueScan(text, whole=whole)
        while word := self._word.search(lowered, at):
            since, at = at, _REST_OF_NAME.match(text, word.end()).end()  # type: ignore[union-attr]  # it may be empty
            yield from scan.values_of(word.start(), at, since=since)


def _lowered(text: str) -> str:
    """Return `text` in lower case, as long as it was."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)


def _secrets_by_form(text: str) -> Iterator[tuple[int, int]]:
    if "://" in text:
        yield from (found.span(1) for found in _URL_PASSWORD.finditer(text))
    if "-----BEGIN" in text:
        yield from (found.span() for found in _PRIVATE_KEY.finditer(text))
    yield from card_numbers(text)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return `text` with what lies in any of the spans redacted."""
    if not spans:
        return text
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        if end <= max(at, start):
            continue
        if start > at or not parts:
            parts += text[at:start], REDACTED
        at = end
    return "".join([*parts, text[at:]])


def card_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield where groups of digits are, with one blank or dash between them, that pass as a payment card number."""
    if _MAYBE_A_CARD.search(text) is None:  # as a rule
        return
    run: list[re.Match[str]] = []
    for group in _DIGITS.finditer(_UUID.sub("x" * 36, text)):
        if run and text[run[-1].end() : group.start()] not in _BETWEEN:
            yield from _cards_in(run)
            run = []
        run.append(group)
    yield from _cards_in(run)


def _cards_in(run: Sequence[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Yield each stretch of whole groups with 13 to 19 digits, of which the first is 2 to 6, that passes Luhn's check.

    Timestamps in micro- and milliseconds, as long as some cards, begin with 1.
    """
    digits = [int(digit) for group in run for digit in group.group()]
    ends = [0, *accumulate(len(group.group()) for group in run)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits]
    # Sums up to each digit, so that a stretch costs a subtraction: the last digit of a number counts as it is, and
    # that is at an even or at an odd place.
    checks = [
        [0, *accumulate(digits[at] if at % 2 == last else doubled[at] for at in range(len(digits)))] for last in (0, 1)
    ]
    for first, start in enumerate(ends[:-1]):
        if not 2 <= digits[start] <= 6:
            continue
        for last in range(first, len(run)):
            end = ends[last + 1]
            if end - start > _LONGEST:
                break
            check = checks[(end - 1) % 2]
            if end - start >= _SHORTEST and (check[end] - check[start]) % 10 == 0:
                yield run[first].start(), run[last].end()
