"""Arguments that a call of Celery's takes by their place as well: ours take them by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

M = TypeVar("M", bound=Callable[..., Any])


def by_name(
    function: Callable[..., Any], after: str, rest: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `options` with the positional arguments `rest`, which `function` takes behind its parameter `after`.

    Raises:
        TypeError: There are more than it takes, or one is given twice.
    """
    if not rest:
        return dict(options)
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    names = names[names.index(after) + 1 :]
    called = getattr(function, "__name__", "the call")
    if len(rest) > len(names):
        raise TypeError(f"{called}() takes {len(names)} positional arguments behind {after!r}, not {len(rest)}")
    named = dict(zip(names, rest, strict=False))
    twice = ", ".join(sorted(named.keys() & options.keys()))
    if twice:
        raise TypeError(f"{called}() got multiple values for {twice}")
    return {**named, **options}


def also_by_place(function: Callable[..., Any], after: str, place: int) -> Callable[[M], M]:
    """Let a method take what `function` of Celery's takes behind its parameter `after`, the one at that place.

    For type checkers the method stays as it is written: its options have names.
    """

    def decorated(method: M) -> M:
        @wraps(method)
        def call(self: Any, *given: Any, **options: Any) -> Any:
            if len(given) > place:
                given, options = given[:place], by_name(function, after, given[place:], options)
            return method(self, *given, **options)

        return call  # type: ignore[return-value]

    return decorated
