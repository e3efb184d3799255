"""For tests: the contract of a store."""

from __future__ import annotations

from celery_stackstate.testing.store_contract import StoreContract

__all__ = ["StoreContract"]
