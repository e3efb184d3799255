"""What a Redis counts by itself."""

from __future__ import annotations

from typing import Any

import redis


class Reads:
    """How many requests the server has read since this was made: one for each round trip, whatever is in it."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self._before = self._total()

    def since(self) -> int:
        """Return how many, without the question itself."""
        return self._total() - self._before - 1

    def forget(self, *keys: str) -> None:
        """Delete keys, and hang up."""
        self._client.delete(*keys)
        self._client.close()

    def _total(self) -> int:
        return int(self._client.info("stats")["total_reads_processed"])


def used_memory(url: str) -> int:
    """Return the bytes that the server's data takes."""
    client: Any = redis.Redis.from_url(url)
    try:
        return int(client.info("memory")["used_memory"])
    finally:
        client.close()
