"""For tests: the contract of a store, and what the fixtures of the pytest plug-in give."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_stackstate.testing.assertions import AssertEnqueued, ReadHistory, RefuteEnqueued, RunHistory
    from celery_stackstate.testing.clock import StoreClock
    from celery_stackstate.testing.enqueued import Enqueued
    from celery_stackstate.testing.store_contract import StoreContract

__all__ = [
    "AssertEnqueued",
    "Enqueued",
    "ReadHistory",
    "RefuteEnqueued",
    "RunHistory",
    "StoreClock",
    "StoreContract",
]

#: Where names are defined. A name is imported when it is used first: who tests tasks does not need the contract.
_MODULES = {
    **dict.fromkeys(("AssertEnqueued", "ReadHistory", "RefuteEnqueued", "RunHistory"), "assertions"),
    "Enqueued": "enqueued",
    "StoreClock": "clock",
    "StoreContract": "store_contract",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
