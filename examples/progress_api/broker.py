"""The folder that stands in for a broker: kombu's, except that a message appears in it whole.

kombu shows a message's file before it has written it. Once in a while a worker takes one half-written, and it is lost.
"""

from pathlib import Path
from time import monotonic_ns
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Writes each message under a name that no worker looks for, then gives it its own."""

    def _put(self, queue: str, payload: dict[str, Any], **options: Any) -> None:
        message = Path(self.data_folder_out, f"{monotonic_ns() // 1_000_000}_{uuid4()}.{queue}.msg")
        draft = message.with_name(f"{message.name}.draft")
        draft.write_text(dumps(payload), encoding="utf-8")
        draft.rename(message)


class Transport(filesystem.Transport):
    """What `broker_transport` names."""

    Channel = Channel
