"""A value of the state as text that a person edits, and back: JSON, with the codec's tags for the types JSON lacks.

What is not understood whole is refused with a sentence that says where. Nothing is guessed: what is saved without a
change comes back equal, which is tried before a value is offered for editing.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from base64 import b64decode
from collections import Counter
from datetime import date, time
from typing import Any, NoReturn

from django.utils.translation import gettext as _

from celery_stackstate import codec
from celery_stackstate.browse import Unreadable
from celery_stackstate.errors import NotSerializable, ValueTooLarge
from celery_stackstate_admin import present
from celery_stackstate_admin.present import line

#: Longer texts are not put into a form.
LONGEST = 100_000
TAGS = frozenset({"datetime", "date", "time", "decimal", "uuid", "bytes", "tuple", "dict"})
_NOT_PLAIN = re.compile(r"[^\x20-\x7e\n]")
#: Unicode's categories of what is not seen, or not sent back by every browser as it was.
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})


class NotAValue(ValueError):
    """The text is no value; the message is for who wrote it."""


def to_text(value: Any) -> str:
    """Return `value` as indented JSON with tags, where each character can be seen."""
    stored = codec.encode(value)
    tree = stored if isinstance(stored, int) else json.loads(stored)
    return _seen(json.dumps(tree, indent=2, ensure_ascii=False))


def from_text(text: str, *, limit: int | None = None) -> Any:
    """Return the value that `text` describes.

    Raises:
        NotAValue: It is no JSON, or has something in it that the state cannot keep or that would be changed silently.
    """
    try:
        tree = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_repeats)
        value = codec.decode(json.dumps(tree).encode())
        codec.encode(value, limit=limit)
    except json.JSONDecodeError as error:
        raise NotAValue(
            _("This is not JSON: %(problem)s in line %(line)d, column %(column)d.")
            % {"problem": error.msg, "line": error.lineno, "column": error.colno}
        ) from None
    except NotAValue:
        raise
    except RecursionError:
        raise NotAValue(_("This is nested too deeply.")) from None
    except ValueTooLarge as error:
        raise NotAValue(
            _("This takes %(size)s bytes; %(limit)s is the most (stackstate_max_value_bytes).")
            % {"size": present.number(error.size), "limit": present.number(error.limit)}
        ) from None
    except (NotSerializable, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise NotAValue(_("This cannot be stored: %(problem)s") % {"problem": line(error, 300)}) from None
    return value


def readable(value: Any, indent: str = "") -> str:
    """Return `value` for reading: indented as JSON is, with other types by name and without quotes."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        parts = [f"{_quoted(key)}: {readable(item, inner)}" for key, item in value.items()]
        return _block("{", parts, "}", indent)
    if isinstance(value, (list, tuple)):
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        return _block(opening, [readable(item, inner) for item in value], closing, indent)
    if value is None or isinstance(value, (bool, int, float, str, dict)):
        return _quoted(value)
    if isinstance(value, bytes):
        return repr(value)
    text = value.isoformat() if isinstance(value, (date, time)) else str(value)
    zone = getattr(getattr(value, "tzinfo", None), "key", "")
    return f"{type(value).__name__.lower()} {text} {zone}".rstrip()


def _block(opening: str, parts: list[str], closing: str, indent: str) -> str:
    if not parts:
        return opening + closing
    inner = f",\n{indent}  ".join(parts)
    return f"{opening}\n{indent}  {inner}\n{indent}{closing}"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def why_not(value: Any) -> str:
    """Return why `value` cannot be edited as text, "" when it can."""
    if isinstance(value, Unreadable):
        return _("This process cannot read the value (%(reason)s), so it cannot be edited here.") % {
            "reason": value.reason
        }
    try:
        text = to_text(value)
        same = codec.encode(from_text(text)) == codec.encode(value)
    except (NotSerializable, NotAValue, RecursionError):
        text, same = "", False
    if not same:
        return _("The value would not come back from a text field as it is, so it cannot be edited here.")
    if len(text) > LONGEST:
        return _("The value is too long to be edited in a form: %(number)s characters, and %(most)s is the most.") % {
            "number": present.number(len(text)),
            "most": present.number(LONGEST),
        }
    return ""


def has_tags(value: Any) -> bool:
    """Return whether the text of `value` has tags that need an explanation."""
    stored = codec.encode(value)
    return isinstance(stored, bytes) and f'"{codec.TAG}"'.encode() in stored


def _no_constant(name: str) -> NoReturn:
    raise NotAValue(_("%(name)s is not JSON: numbers must be finite.") % {"name": name})


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotAValue(_("%(number)s is larger than a float can be.") % {"number": digits[:40]})
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    _refuse_repeats(pairs, found)
    if codec.TAG in found:
        _check_tag(found)
    return found


def _refuse_repeats(pairs: list[Any], found: dict[str, Any]) -> None:
    if len(found) != len(pairs):
        twice = Counter(pair[0] for pair in pairs).most_common(1)[0][0]
        raise NotAValue(_("The name %(name)s is there twice in the same object.") % {"name": json.dumps(twice)[:80]})


def _check_tag(tagged: dict[str, Any]) -> None:
    """Refuse a tag that the codec would not have written: it would be read as something else than it says."""
    kind, shown = tagged[codec.TAG], {"tag": json.dumps(tagged)[:120]}
    if not isinstance(kind, str) or kind not in TAGS:
        raise NotAValue(_("%(tag)s has a type that is unknown.") % shown)
    zoned = kind in ("datetime", "time") and "zone" in tagged
    if set(tagged) != {codec.TAG, "is", *(("zone", "fold") if zoned else ())}:
        raise NotAValue(_("%(tag)s must have the names “$type” and “is”, and no others.") % shown)
    if zoned and (not isinstance(tagged["zone"], str) or tagged["fold"] not in (0, 1)):
        raise NotAValue(_("%(tag)s must have the name of a zone, and a fold of 0 or 1.") % shown)
    if kind in ("tuple", "dict"):
        _check_many(kind, tagged["is"], shown)
    elif not isinstance(tagged["is"], str):
        raise NotAValue(_("%(tag)s must have a text.") % shown)
    else:
        _check_one(tagged, shown, zoned=zoned)


def _check_many(kind: str, content: Any, shown: dict[str, str]) -> None:
    if not isinstance(content, list) or (kind == "dict" and not all(map(_is_pair, content))):
        raise NotAValue(_("%(tag)s must have a list of what is in it.") % shown)
    if kind == "dict":
        _refuse_repeats(content, dict(content))


def _check_one(tagged: dict[str, Any], shown: dict[str, str], *, zoned: bool) -> None:
    try:
        found = codec.decode(json.dumps(tagged).encode())
        if tagged[codec.TAG] == "bytes":
            b64decode(tagged["is"], validate=True)
        if zoned and type(found).fromisoformat(tagged["is"]).tzinfo is not None:
            raise ValueError("an offset beside a zone")
    except (ValueError, LookupError, TypeError, ArithmeticError):
        raise NotAValue(_("%(tag)s cannot be read as what its type says.") % shown) from None


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)


def _seen(text: str) -> str:
    """Return JSON in which the characters that are not seen are escaped, as JSON lets them be."""
    return _NOT_PLAIN.sub(lambda found: _escaped(found.group()), text)


def _escaped(one: str) -> str:
    unseen = one == "\x7f" or unicodedata.category(one) in _UNSEEN or (one.isspace() and one != "\n")
    return "".join(f"\\u{unit:04x}" for unit in _units(one)) if unseen else one


def _units(one: str) -> tuple[int, ...]:
    """Return the code units of UTF-16, in which JSON escapes."""
    raw = one.encode("utf-16-be")
    return tuple(int.from_bytes(raw[place : place + 2], "big") for place in range(0, len(raw), 2))
