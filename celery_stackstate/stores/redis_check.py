"""What may keep a server of the Redis family from keeping the promises of a store."""

from __future__ import annotations

from contextlib import suppress

from celery_stackstate.errors import ConfigurationError, NewerFormat, StoreUnavailable
from celery_stackstate.stores.redis_client import ScriptClient

#: The field of INFO with the version, what it is the version of, and the oldest that serves. Valkey tells both.
VERSIONS = (("valkey_version", "Valkey", (7, 2)), ("redis_version", "Redis", (6, 2)))


#: How what is stored lies in keys. A release that an older one could not share a server with takes the next number.
LAYOUT = 1


def check_layout(client: ScriptClient, key: bytes) -> None:
    """Refuse what a newer release laid out otherwise; where nobody has said how it is laid out, say so at `key`."""
    found = client.command("GET", key)
    if found is not None and int(found) > LAYOUT:
        raise NewerFormat(
            f"stackstate_url: the server was written by a newer celery-stackstate (layout {int(found)}): upgrade"
        )
    if found is None:
        with suppress(StoreUnavailable):  # a replica
            client.command("SET", key, LAYOUT, "NX")


def warnings(client: ScriptClient) -> list[str]:
    """Look at the server in charge; refuse one that is too old, and return warnings of what it may lose."""
    try:
        info = _parsed(client.command("INFO"))
    except ConfigurationError:
        return ["Redis does not show INFO to this user: make sure of maxmemory-policy noeviction and of persistence"]
    _check_version(info)
    return [*_of_memory(info), *_of_persistence(info, client), *client.warnings()]


def server(client: ScriptClient) -> str:
    """Return the name and the version of the server in charge, "" where it does not tell."""
    try:
        info = _parsed(client.command("INFO"))
    except ConfigurationError:
        return ""
    name, version, _ = _version(info)
    return f"{name} {version}"


def _version(info: dict[str, str]) -> tuple[str, str, tuple[int, int]]:
    """Return what the server is, its version, and the oldest that serves."""
    field, name, oldest = next((row for row in VERSIONS if row[0] in info), VERSIONS[-1])
    return name, info.get(field, ""), oldest


def _check_version(info: dict[str, str]) -> None:
    name, version, oldest = _version(info)
    if _numbers(version) < oldest:
        floor = ".".join(map(str, oldest))
        raise ConfigurationError(f"stackstate_url: the server is {name} {version}; the store needs {floor} or newer")


def _of_memory(info: dict[str, str]) -> list[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    return [
        f"Redis has maxmemory-policy {policy}: under memory pressure it deletes locks and idempotency keys; "
        "set noeviction"
    ]


def _of_persistence(info: dict[str, str], client: ScriptClient) -> list[str]:
    found = []
    if info.get("role") == "slave":
        found.append("Redis is a replica: writes will fail; name the primary in stackstate_url")
    if info.get("aof_enabled") == "0" and _setting(client, "save") == "":
        found.append("Redis has no persistence: a restart loses everything; set appendonly yes")
    if info.get("aof_enabled") == "1" and _setting(client, "appendfsync") == "no":
        found.append("Redis has appendfsync no: a power failure loses what the system wrote late; set everysec")
    return found


def _setting(client: ScriptClient, name: str) -> str | None:
    """Return a setting of the server; None where it does not tell."""
    try:
        answer = client.command("CONFIG", "GET", name)
    except ConfigurationError:
        return None
    return answer[1].decode("utf-8", "replace") if len(answer) == 2 else None


def _parsed(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
