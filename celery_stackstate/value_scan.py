"""Where a value ends in a text of any kind: code, JSON (also inside of JSON), a repr, a query string or plain words.

In doubt it ends later: what is left of a secret is worse than what is missing beside one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

#: Without a blank or a bracket, so that a text that was redacted before stays as it is.
REDACTED = "••redacted••"

# A name and what separates it from its value. In JSON inside of JSON there are backslashes before a quote.
_SEPARATOR = re.compile(r"""(\\*["'])?\]?\s*(?::=|=>|={1,3}|:)\s*""")
_SEPARATOR_OF_WORDS = re.compile(r"""[^"'\n]{0,80}?(\\*["'])\s*:\s*""")
# `--name value` and pairs of a list, `("name", "value")`: what stands before such a name, and what behind it.
_LEADING = re.compile(r"""(?:(?<![\w-])--|([(\[]\s*b?\\*["']))[\w-]*\Z""")
_NEXT = re.compile(r"""(?:(\\*["'],\s*)|\s+)(?![-\s])""")
_END_OF_PAIR = re.compile(r"\s*[)\]]")

_LEAD = re.compile(r"(?i)(?:(?:bearer|basic|digest|token|apikey|negotiate)\s+|[|>][-+]?\s+|-\s+)(?=\S)")
_ANY_SCHEME = re.compile(r"[\w-]+[ \t]+(?=\S)")
_PARAMETER = re.compile(r",\s*[\w-]+=")
_ASSIGNED = re.compile(r"[ \t]*=[ \t]*(?=\S)")

_QUOTE = re.compile(r'''[bBrRuUfF]{0,2}(\\*)("""|\'\'\'|["'])''')
_CLOSING = {quote: re.compile(rf"(?<!\\)(\\*){quote}") for quote in ('"', "'", '"""', "'''")}
_MARK = re.compile(r"""(?<!\\)(\\*)(["'])|[()\[\]{}]""")
_ANGLED_MARK = re.compile(r"""(?<!\\)(\\*)(["'])|[()\[\]{}<>]""")
_LITERAL = re.compile(r"(?:-?\d[\w.+-]*|null|true|false|None|True|False|NaN)(?=[\s,}\])]|\Z)")
# A comma, an ampersand or a closing bracket is part of a bare word that goes on behind it.
_BARE = re.compile(
    r"""(?:[^\s,;&()\[\]{}]"""
    r"""|,(?!\s|\Z|(?<=["'],)\\*["'])"""
    r"""|[;&](?!\s|\Z|[^\s=;&]*=)"""
    r"""|[)\]}]+(?![\s,;:.)\]}"'>\\]|\Z))+"""
)

_Escaped = Callable[[int, int], bool]
#: Whether a quote behind so many backslashes is part of what one behind fewer has opened. In plain JSON and in a repr
#: the first rule holds, the second in the repr of JSON and in JSON of a repr. A text may mix them, or be cut: the last
#: rule is for these, and the rule by which the value is longest is followed.
_ESCAPED: tuple[_Escaped, ...] = (
    lambda before, opened: before % (2 * opened + 2) == 2 * opened + 1,
    lambda before, opened: before // (2 * opened + 2) % 2 == 1,
    lambda before, opened: before > opened,
)


class ValueScan:
    """Finds the ends of values in one text; `whole` is False for one that was cut at its end."""

    def __init__(self, text: str, *, whole: bool = True) -> None:
        self._text, self._whole = text, whole
        #: What may be spent on the text. One that needs more is hostile, and all the rest of it passes as one value.
        self._left = 8 * len(text) + 1000

    def values_of(self, begin: int, end: int, *, since: int) -> Iterator[tuple[int, int]]:
        """Yield where what may be the value of the name at `begin` to `end` lies; `since` no other name was found."""
        text, name = self._text, self._text[begin:end].lower()
        found = _SEPARATOR.match(text, end)
        if found is not None:
            yield self._separated(name, found)
        else:
            yield from self._following(name, end, text[since:begin])
        quoted = None if found is not None and found.group(1) else _SEPARATOR_OF_WORDS.match(text, end)
        if quoted is not None:
            yield self._separated(name, quoted)

    def _separated(self, name: str, separator: re.Match[str]) -> tuple[int, int]:
        start = self._behind_scheme(name, separator.end())
        literal = _LITERAL.match(self._text, start) if separator.group(1) else None
        return start, literal.end() if literal else self._end_of(name, start)

    def _following(self, name: str, end: int, before: str) -> Iterator[tuple[int, int]]:
        """Yield the value of an option, `--name value`, or of a pair, `("name", "value")`."""
        found, leading = _NEXT.match(self._text, end), _LEADING.search(before)
        if found is None or leading is None:
            return
        start = self._behind_scheme(name, found.end())
        stop = self._end_of(name, start)
        is_option = leading.group(1) is None
        if is_option or (found.group(1) and _END_OF_PAIR.match(self._text, stop)):
            yield start, stop

    def _behind_scheme(self, name: str, start: int) -> int:
        scheme = _LEAD.match(self._text, start) or (name == "authorization" and _ANY_SCHEME.match(self._text, start))
        return scheme.end() if scheme else start

    def _end_of(self, name: str, start: int) -> int:
        text = self._text
        if text.startswith(REDACTED, start):
            return start + len(REDACTED)
        if name == "cookie" and not (_QUOTE.match(text, start) or text[start : start + 1] in ("(", "[", "{", "<")):
            return self._end_of_line(start)
        end = self._end_of_word(start)
        while assigned := _ASSIGNED.match(text, end):  # what came before was the type of an argument
            end = self._end_of_word(assigned.end())
        while name == "authorization" and (parameter := _PARAMETER.match(text, end)):
            end = self._end_of_word(parameter.end())
        return end

    def _end_of_word(self, start: int) -> int:
        """Return the end of what goes on without a blank, of parts in quotes, in brackets and bare."""
        text, at, closed = self._text, start, ""
        while at < len(text):
            if self._left < 0:
                return len(text)
            quote = _QUOTE.match(text, at)
            if quote is not None and (at == start or quote.group(2) == closed):
                at, closed = self._end_of_quoted(quote), quote.group(2)
            elif text[at] in "([{" or (text[at] == "<" and at == start):
                at, closed = max(self._end_of_bracket(at, rule) for rule in _ESCAPED), text[at]
            elif (bare := _BARE.match(text, at)) is None or (closed and not text[at].isalnum()):
                break
            else:
                self._left -= (bare.end() - at) // 4
                at, closed = bare.end(), ""
        return at

    def _end_of_quoted(self, opening: re.Match[str]) -> int:
        slashes, quote = len(opening.group(1)), opening.group(2)
        ends = [self._closing(opening.end(), slashes, quote, rule) for rule in _ESCAPED]
        return max(self._end_of_line(opening.start()) if end is None else end for end in ends)

    def _closing(self, at: int, slashes: int, quote: str, escaped: _Escaped) -> int | None:
        """Return the end of what was opened by a quote behind so many backslashes; None when nothing closes it."""
        for found in _CLOSING[quote].finditer(self._text, at):
            self._left -= 1
            if not escaped(len(found.group(1)), slashes):
                return found.end()
        self._left -= (len(self._text) - at) // 4
        return None

    def _end_of_bracket(self, start: int, escaped: _Escaped) -> int:
        text, at, depth = self._text, start, 0
        marks = _ANGLED_MARK if text[start] == "<" else _MARK
        while found := marks.search(text, at):
            self._left -= 1
            at = found.end()
            if found.group(2):  # one that nothing closes is an apostrophe
                at = self._closing(at, len(found.group(1)), found.group(2), escaped) or at
                continue
            depth += 1 if found.group() in "([{<" else -1
            if depth == 0:
                return at
        self._left -= (len(text) - start) // 4
        return self._end_of_line(start)

    def _end_of_line(self, start: int) -> int:
        """Return where a value ends that nothing closes."""
        end = self._text.find("\n", start) if self._whole else -1
        return len(self._text) if end < 0 else end
