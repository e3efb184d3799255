"""What the calls of all contenders have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: The calls in the order of the table.
NAMES = ("set", "get", "increment", "add", "lock + unlock", "throttle")
TTL = 60
#: The rate of `throttle`, and its burst: about as fast as the calls come, so that each finds the pace in use, and so
#: large that none is held back.
LIMIT = 10_000

Calls = Mapping[str, Callable[[int], Any]]


def value(number: int) -> str:
    """Return a value that differs from the one before: SQLite does not write what is there already."""
    return f"imports:7, {number} are done"


def key(number: int) -> str:
    """Return one of a hundred keys."""
    return f"benchmarks:{number % 100}"


#: Generic cell rate algorithm: KEYS the pace; ARGV microseconds per unit, and for a full burst.
GCRA = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + ARGV[1]
if arrival - now > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
return 1
"""
INTERVAL, BURST = 1_000_000 // LIMIT, 1_000_000
#: KEYS the lock; ARGV the token.
UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
