"""What publishes a run once more: its message as it was asked for, with times that do not depend on when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from kombu.utils import json as kombu_json

from celery_stackstate.errors import NotSerializable
from celery_stackstate.facts import now_micros
from celery_stackstate.header import HEADER
from celery_stackstate.records import from_micros, micros_of

#: Options of `send_task` that belong to the process that publishes.
LOCAL = ("producer", "connection", "publisher", "router", "result_cls", "task_type", "add_to_parent", "task_id")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The arguments of `send_task`, and what its message is serialized with."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    serializer: str = "json"

    def dump(self, *, needed_for: str | None = None) -> str | None:
        """Return it as text. One that JSON cannot hold is None, or raises NotSerializable where it is needed."""
        options = {name: value for name, value in self.options.items() if name not in LOCAL and value is not None}
        options.update({name: from_micros(moment) for name, moment in self.moments().items()})
        options.pop("countdown", None)
        options["headers"] = {name: value for name, value in (options.get("headers") or {}).items() if name != HEADER}
        try:
            text = str(kombu_json.dumps([self.name, list(self.args), dict(self.kwargs), options]))
            if self.serializer != "json" and not self._is_in(text):
                raise ValueError(f"JSON would not hold them as {self.serializer} does; let them be plain data")
        except Exception as error:
            if needed_for is None:
                return None
            raise NotSerializable(
                f"the arguments or options of {self.name} cannot be kept, which {needed_for} needs: {error}"
            ) from error
        return text

    def _is_in(self, text: str) -> bool:
        """Return whether `text` gives the arguments back as they are."""
        _, args, kwargs, _ = kombu_json.loads(text)
        return bool(args == list(self.args) and kwargs == dict(self.kwargs))

    @classmethod
    def load(cls, text: str) -> Envelope:
        """Return the envelope that `dump` wrote; what a newer release put behind is left out."""
        return cls(*kombu_json.loads(text)[:4])

    def moments(self) -> dict[str, int]:
        """Return its ETA and its expiry, those there are, in microseconds."""
        countdown, expires = self.options.get("countdown"), self.options.get("expires")
        eta = now_micros() + round(countdown * 1_000_000) if countdown else micros_of(self.options.get("eta"))
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        ends = now_micros() + round(expires * 1_000_000) if isinstance(expires, (int, float)) else micros_of(expires)
        return {name: moment for name, moment in (("eta", eta), ("expires", ends)) if moment is not None}


def seconds_ahead(moment: datetime) -> float:
    """Return the seconds until `moment`, 0 when it has passed."""
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
