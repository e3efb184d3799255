"""The contract of `celery_stackstate.stores.base.Store` as tests, for everyone who writes a store."""

from __future__ import annotations

from celery_stackstate.testing.contract_entries import (
    CounterContract,
    EntryContract,
    GuardContract,
    ScanContract,
    TimeContract,
)
from celery_stackstate.testing.contract_lists import ListContract
from celery_stackstate.testing.contract_processes import ProcessContract
from celery_stackstate.testing.contract_removal import BoundContract, RemovalContract
from celery_stackstate.testing.contract_runs import RunContract
from celery_stackstate.testing.contract_together import TogetherContract


class StoreContract(
    EntryContract,
    TimeContract,
    GuardContract,
    CounterContract,
    ScanContract,
    RunContract,
    ListContract,
    BoundContract,
    RemovalContract,
    TogetherContract,
    ProcessContract,
):
    """Every promise of a store. Subclass it in a test module and say where the store lies:

        class TestMyStore(StoreContract):
            @pytest.fixture
            def store_url(self, tmp_path):
                return f"mystore:///{tmp_path}/store"

    The URL is opened several times in one test, also in processes that are spawned: it must name one place. A class
    that is not registered under its scheme sets `opener = staticmethod(open_my_store)`, a function of a module that
    takes `(url, *, prefix, timeout)`.
    """
