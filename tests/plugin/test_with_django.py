"""Tests of a Django project: pytest-django's transactions, over the store in memory and over the test's database."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

pytest.importorskip("django")
pytest.importorskip("pytest_django")
pytest_plugins = ["pytester"]

OPTIONS = ("-p", "no:celery", "-p", "celery.contrib.pytest", "--ds=site_settings")

SETTINGS = """
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "celery_stackstate.stores.django"]
USE_TZ = True
CELERY_BROKER_URL = "amqp://guest@192.0.2.1//"
CELERY_STACKSTATE_URL = "django://default"
"""
JOBS = """
from celery import Celery
from celery_stackstate.django import DjangoStateTask

app = Celery("jobs", task_cls=DjangoStateTask)
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task(bind=True, idempotency_key="order:{order}")
def charge(self, order):
    return self.state.increment("charged")
"""


def test_what_is_published_on_commit_is_asserted_after_it(project: Project) -> None:
    result = project(
        *OPTIONS,
        site_settings=SETTINGS,
        jobs=JOBS,
        test_jobs="""
        import pytest
        from django.contrib.auth.models import Group
        from django.db import transaction
        from jobs import app, charge

        @pytest.mark.django_db
        def test_on_commit(assert_enqueued, refute_enqueued, django_capture_on_commit_callbacks):
            with django_capture_on_commit_callbacks(execute=True):
                charge.delay_on_commit(7)
                refute_enqueued(charge)
            assert_enqueued(charge, key="order:7", count=1)

        @pytest.mark.django_db(transaction=True)
        def test_a_real_transaction(assert_enqueued, refute_enqueued):
            with transaction.atomic():
                charge.delay_on_commit(7)
                refute_enqueued(charge)
            assert_enqueued(charge, key="order:7")
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                charge.delay_on_commit(8)
                1 / 0
            refute_enqueued(charge, key="order:8")

        def test_no_database_is_needed_for_the_store_in_memory(state, monkeypatch, run_history):
            monkeypatch.setitem(app.conf, "task_always_eager", True)
            assert run_history(charge.delay(7)).result == state.count("charged") == 1
        """,
    )
    result.assert_outcomes(passed=3)


def test_the_store_in_the_tests_database_joins_its_transactions(project: Project) -> None:
    result = project(
        *OPTIONS,
        site_settings=SETTINGS,
        jobs=JOBS,
        test_jobs="""
        import pytest
        from django.db import transaction
        from jobs import app, charge

        @pytest.fixture
        def stackstate_url():
            return "django://default"

        @pytest.mark.django_db
        @pytest.mark.parametrize("round", [1, 2])
        def test_a_reservation_is_published_on_commit(
            stackstate, state, assert_enqueued, refute_enqueued, django_capture_on_commit_callbacks, run_history, round
        ):
            assert state.get("k") is None, "the test before was rolled back"
            with django_capture_on_commit_callbacks(execute=True):
                state.set("k", round)
                result = charge.delay(7)
                assert result.created
                assert not charge.delay(7).created
                refute_enqueued(charge)
            assert_enqueued(charge, key="order:7", count=1)
            assert stackstate.idempotency.get("order:7", task=charge.name).run_id == result.id
            assert run_history(result).status == "QUEUED"

        @app.task(idempotency_key="page:{page}", debounce=5)
        def index(page, text): ...

        @pytest.mark.django_db
        def test_what_is_debounced_before_the_commit_has_its_last_arguments(
            assert_enqueued, refute_enqueued, django_capture_on_commit_callbacks
        ):
            with django_capture_on_commit_callbacks(execute=True):
                index.delay(1, "a")
                index.delay(1, "b")
                refute_enqueued(index)
            assert_enqueued(index, args=(1, "b"), count=1)

        @pytest.mark.django_db(transaction=True)
        def test_a_rollback_takes_back_state_and_request(state, refute_enqueued, stackstate):
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                state.set("k", 1)
                charge.delay(7)
                1 / 0
            assert state.get("k") is None
            refute_enqueued(charge)
            assert stackstate.idempotency.get("order:7", task=charge.name) is None
        """,
    )
    result.assert_outcomes(passed=4)


def test_in_a_test_case_all_but_locks_works_over_the_tests_database(project: Project) -> None:
    result = project(
        *OPTIONS,
        site_settings=SETTINGS,
        jobs=JOBS,
        test_jobs="""
        import pytest
        from celery_stackstate import InTransaction
        from django.test import TestCase, TransactionTestCase
        from jobs import app, charge

        @pytest.fixture
        def stackstate_url():
            return "django://default"

        class Fixtures:
            @pytest.fixture(autouse=True)
            def use(self, state, assert_enqueued, refute_enqueued, run_history, monkeypatch):
                self.state, self.run_history, self.monkeypatch = state, run_history, monkeypatch
                self.assert_enqueued, self.refute_enqueued = assert_enqueued, refute_enqueued

        class TestInOneTransaction(Fixtures, TestCase):
            def test_state_is_rolled_back_with_the_test(self):
                assert self.state.increment("n") == 1
                self.state.set("k", 1)

            test_and_the_next_begins_without_it = test_state_is_rolled_back_with_the_test

            def test_what_waits_for_the_commit_is_captured(self):
                with self.captureOnCommitCallbacks(execute=True):
                    result = charge.delay(7)
                    charge.delay_on_commit(8)
                    self.refute_enqueued(charge)
                self.assert_enqueued(charge, count=2)
                assert self.run_history(result).status == "QUEUED"

            def test_eager_runs_are_recorded(self):
                self.monkeypatch.setitem(app.conf, "task_always_eager", True)
                assert self.run_history(charge.delay(7)).result == self.state.count("charged") == 1

            def test_a_lock_is_refused(self):
                with pytest.raises(InTransaction), self.state.lock("l"):
                    pass

        class TestOnItsOwn(Fixtures, TransactionTestCase):
            def test_a_lock_is_taken(self):
                with self.state.lock("l") as lock:
                    lock.check()
        """,
    )
    result.assert_outcomes(passed=6)


def test_a_worker_beside_transactions(project: Project) -> None:
    result = project(
        *OPTIONS,
        site_settings=SETTINGS.replace("amqp://guest@192.0.2.1//", "memory://")
        + 'CELERY_RESULT_BACKEND = "cache+memory://"\n',
        jobs=JOBS,
        conftest="""
        import pytest
        from jobs import app

        @pytest.fixture
        def celery_app():
            import celery.contrib.testing.tasks  # what a worker is pinged with

            return app
        """,
        test_jobs="""
        import pytest
        from django.db import transaction
        from jobs import charge

        @pytest.mark.django_db(transaction=True)
        def test_a_run_begins_after_the_commit(celery_worker, state, run_history, assert_enqueued, refute_enqueued):
            with transaction.atomic():
                charge.delay_on_commit(7)
                refute_enqueued(charge)
            (sent,) = assert_enqueued(charge)
            assert run_history(sent).result == 1
            assert state.count("charged") == 1
        """,
    )
    result.assert_outcomes(passed=1)
