"""Unit tests of a project whose broker, result backend and store are not there."""

from __future__ import annotations

from tests.plugin.conftest import Project
from tests.waiting import Stopwatch

pytest_plugins = ["pytester"]


def test_each_test_has_an_empty_store_of_its_own_and_nothing_is_connected_to(project: Project) -> None:
    watch = Stopwatch()
    result = project(
        test_shop="""
        import pytest
        from celery_stackstate import StackState
        from shop import app, import_rows

        @pytest.mark.parametrize("round", [1, 2])
        def test_state_begins_empty(stackstate, state, round):
            assert stackstate is StackState.of(app) is StackState.current()
            assert state.keys().items == ()
            state.set("k", round)
            state.increment("n")
            assert (state.get("k"), state.count("n")) == (round, 1)
            assert stackstate.where() == "memory://"

        def test_the_body_and_the_test_share_the_state(state):
            state.set("7:done", 2)
            assert import_rows(7, rows=3) == 3
            assert state.get("7:done") == 3

        def test_what_is_configured_is_put_back(request):
            extension = StackState.of(app)
            made = set(extension.__dict__)
            request.getfixturevalue("stackstate").state.set("k", 1)
            assert "store" in extension.__dict__

        def test_nothing_was_made_of_it():
            extension = StackState.of(app)
            assert {"store", "runs_store", "settings", "recorder"} & set(extension.__dict__) == set()
            assert extension.settings.url == "redis://192.0.2.1/0"
            assert extension.settings.record_eager is False
        """
    )
    result.assert_outcomes(passed=5)
    assert watch.seconds < 30


def test_what_is_enqueued_goes_nowhere_and_is_asserted(project: Project) -> None:
    result = project(
        test_shop="""
        import time
        import pytest
        from celery import chain, group
        from shop import app, charge, import_rows, send_mail

        def test_it_is_found_by_task_key_arguments_and_queue(assert_enqueued, refute_enqueued):
            began = time.monotonic()
            result = charge.delay(7, amount=5)
            send_mail.apply_async(("a@b.c",), countdown=60)
            assert time.monotonic() - began < 2, "no broker is waited for"
            (found,) = assert_enqueued(charge)
            assert (found.id, found.key, found.queue, found.args) == (result.id, "order:7", "celery", (7,))
            assert found.kwargs == {"amount": 5}
            assert_enqueued(charge, key="order:7", args=(7, 5), queue="celery", count=1)
            assert_enqueued(charge, args=[7], kwargs={"amount": 5})
            assert_enqueued(charge, kwargs={"order": 7})
            assert assert_enqueued("shop.send_mail", queue="mail")[0].eta is not None
            for wrong in ({"key": "order:8"}, {"args": (7,)}, {"kwargs": {"order": 8}}, {"queue": "mail"}):
                refute_enqueued(charge, **wrong)
                with pytest.raises(AssertionError):
                    assert_enqueued(charge, **wrong)
            refute_enqueued(import_rows)
            for wrong in ({}, {"key": "order:7"}, {"queue": "celery"}):
                with pytest.raises(AssertionError):
                    refute_enqueued(charge, **wrong)

        def test_a_suppressed_duplicate_does_not_count(assert_enqueued):
            first, second = charge.delay(7), charge.delay(order=7)
            assert (first.created, second.created, first.id == second.id) == (True, False, True)
            assert_enqueued(charge, count=1)

        def test_a_duplicate_with_a_message_of_its_own_does_not_count(assert_enqueued):
            charge.delay(7)
            charge.apply_async((7,), link=send_mail.si("a"))
            assert_enqueued(charge, count=1)

        def test_send_task_and_canvas_are_seen(assert_enqueued):
            app.send_task("shop.charge", (1,))
            group(charge.s(2), charge.s(3))()
            chain(charge.si(4), charge.si(5))()
            assert [found.args for found in assert_enqueued(charge, count=4)] == [(1,), (2,), (3,), (4,)]

        def test_each_test_begins_with_nothing_enqueued(refute_enqueued):
            refute_enqueued(charge)

        def test_what_cannot_be_serialized_is_refused_as_ever(assert_enqueued):
            with pytest.raises(Exception, match="JSON"):
                import_rows.delay(object())
            with pytest.raises(AssertionError):
                assert_enqueued(import_rows)

        def test_the_handle_of_a_run_that_waits_says_so(run_history, assert_enqueued):
            result = charge.delay(7)
            assert result.state == "PENDING"
            history = run_history(result)
            assert (history.status, history.key, history.attempts) == ("QUEUED", "order:7", ())
            assert [event.name for event in history.events] == ["queued"]

        def test_revoking_and_asking_workers_reaches_nobody(stackstate):
            app.control.revoke("some-id")
            assert app.control.ping(timeout=0.1) == []

        def test_a_second_request_with_the_same_id_counts_as_well(assert_enqueued, refute_enqueued):
            send_mail.apply_async(("a",), task_id="mail-1")
            refute_enqueued(import_rows)
            send_mail.apply_async(("b",), {}, "mail-1")
            import_rows.apply_async((1,), task_id="mail-1")
            assert [found.args for found in assert_enqueued(send_mail, count=2)] == [("a",), ("b",)]
            assert_enqueued(import_rows, args=(1,))

        def test_a_project_that_is_switched_off_is_on_here(monkeypatch, request):
            monkeypatch.setitem(app.conf, "stackstate_enabled", False)
            assert_enqueued, state = map(request.getfixturevalue, ("assert_enqueued", "state"))
            assert [charge.delay(7).created for _ in range(2)] == [True, False]
            assert_enqueued(charge, key="order:7", count=1)
        """
    )
    result.assert_outcomes(passed=10)


def test_eager_calls_run_at_once_and_are_asserted_and_recorded(project: Project) -> None:
    result = project(
        test_shop="""
        import pytest
        from celery import chain, chord, group
        from celery_stackstate import InvalidKey
        from shop import app, charge, flaky, import_rows, order_all, send_mail

        @pytest.fixture(autouse=True)
        def eager(monkeypatch):
            monkeypatch.setitem(app.conf, "task_always_eager", True)

        def test_a_call_is_seen_with_its_key_arguments_and_queue(assert_enqueued, refute_enqueued):
            result = charge.apply_async((7,), {"amount": 5}, idempotency_key="mine")
            (found,) = assert_enqueued(charge, key="mine", args=(7, 5), queue="celery", count=1)
            assert found.id == result.id
            charge.delay(8)
            assert_enqueued(charge, key="order:8")
            send_mail.delay("a")
            assert_enqueued(send_mail, queue="mail")
            refute_enqueued(import_rows)

        def test_what_is_called_by_place_is_seen_too(assert_enqueued):
            charge.apply_async((7,), {}, "my-id")
            assert [found.id for found in assert_enqueued(charge, count=1)] == ["my-id"]

        @pytest.mark.parametrize("round", [1, 2])
        def test_results_are_those_of_the_test(stackstate, monkeypatch, round):
            monkeypatch.setitem(app.conf, "task_store_eager_result", True)
            monkeypatch.setattr(import_rows, "store_eager_result", True)  # Celery read the setting when it made it
            assert app.AsyncResult("job-7").state == "PENDING"
            import_rows.apply_async((1,), task_id="job-7")
            assert app.AsyncResult("job-7").state == "SUCCESS"

        def test_what_a_task_enqueues_is_seen(assert_enqueued):
            order_all.delay([1, 2])
            assert [found.key for found in assert_enqueued(charge, count=2)] == ["order:1", "order:2"]

        def test_canvas_is_seen(assert_enqueued):
            chain(charge.si(1), charge.si(2).set(idempotency_key="second"))()
            group(charge.si(3), charge.si(4)).apply_async()
            chord([charge.si(5)], send_mail.si("all"))()
            found = assert_enqueued(charge, count=5)
            assert [one.key for one in found] == ["order:1", "second", "order:3", "order:4", "order:5"]
            assert_enqueued(send_mail, args=("all",), count=1)

        def test_a_call_that_is_refused_is_not_enqueued(refute_enqueued):
            with pytest.raises(InvalidKey):
                charge.delay(None)
            with pytest.raises(TypeError):
                send_mail.delay()
            refute_enqueued(charge)
            refute_enqueued(send_mail)

        def test_calling_the_task_itself_is_no_request(refute_enqueued):
            charge(7)
            charge.apply((7,))
            refute_enqueued(charge)

        def test_a_retry_is_the_same_request(assert_enqueued, run_history):
            result = flaky.delay()
            assert result.get() == "done"
            assert_enqueued(flaky, count=1)
            assert run_history(result).status == "SUCCESS"

        def test_the_history_of_a_run(run_history):
            history = run_history(import_rows.delay(7, rows=2))
            assert (history.status, history.result, history.progress.done) == ("SUCCESS", 2, 2)
            assert [attempt.status for attempt in history.attempts] == ["SUCCESS"]
            assert [event.data for event in history.events if event.name == "all there"] == [{"rows": 2}]

        def test_a_run_is_queued_before_it_starts_and_ends(run_history):
            for result in (import_rows.delay(7, rows=2), import_rows.apply((8,)), flaky.delay()):
                history = run_history(result)
                moments = [history.queued_at, history.attempts[0].started_at, history.started_at, history.finished_at]
                assert moments == sorted(moments)

        def test_the_log_of_a_run_has_what_the_root_logger_lets_through(run_history, caplog):
            caplog.set_level("INFO")
            assert [line.message for line in run_history(import_rows.delay(7)).logs] == ["3 rows"]

        def test_the_history_of_a_failure(run_history):
            history = run_history(import_rows.delay(7, fail=True))
            assert (history.status, history.attempts[0].error_type) == ("FAILURE", "ValueError")
            assert "no such row" in history.error

        def test_an_unknown_run_is_told(run_history):
            with pytest.raises(AssertionError, match="nothing is recorded of the run unknown"):
                run_history("unknown")
        """
    )
    result.assert_outcomes(passed=14)


def test_what_was_sent_is_compared_whatever_becomes_of_the_objects(project: Project) -> None:
    result = project(
        test_shop="""
        import threading
        from celery import chain
        from shop import app, send_mail

        class Attachment:
            "Has no equal, as some that only an eager canvas can hand on."

        @app.task
        def empty(rows):
            rows.clear()

        def test_the_caller_goes_on_with_its_list(assert_enqueued):
            readers = ["a"]
            send_mail.delay(readers)
            readers.append("b")
            assert_enqueued(send_mail, args=(["a"],))
            assert assert_enqueued(send_mail)[0].args == (["a"],)

        def test_the_body_of_an_eager_call_changes_its_arguments(assert_enqueued, monkeypatch):
            monkeypatch.setitem(app.conf, "task_always_eager", True)
            chain(empty.si(rows=[1, 2]), send_mail.si("a"))()
            assert_enqueued(empty, kwargs={"rows": [1, 2]})

        def test_what_has_no_equal_copy_is_itself(assert_enqueued, monkeypatch):
            monkeypatch.setitem(app.conf, "task_always_eager", True)
            for nothing_like_it in (Attachment(), threading.Lock()):
                chain(send_mail.si(nothing_like_it), send_mail.si("a"))()
                assert_enqueued(send_mail, args=(nothing_like_it,), count=1)
        """
    )
    result.assert_outcomes(passed=3)


def test_a_debounced_run_is_enqueued_once_with_its_last_arguments(project: Project) -> None:
    result = project(
        test_shop="""
        from shop import app

        @app.task(idempotency_key="page:{page}", debounce=5)
        def index(page, text): ...

        def test_the_last_arguments_count(assert_enqueued, refute_enqueued):
            for text in "abc":
                index.delay(1, text)
            (found,) = assert_enqueued(index, key="page:1", args=(1, "c"), count=1)
            assert found.eta is not None
            refute_enqueued(index, kwargs={"text": "a"})
            index.delay(2, "d")
            assert [one.args[1] for one in assert_enqueued(index, count=2)] == ["c", "d"]
        """
    )
    result.assert_outcomes(passed=1)


def test_a_request_that_was_replaced_does_not_count(project: Project) -> None:
    result = project(
        test_shop="""
        from shop import app

        @app.task(idempotency_key="page:{page}", on_duplicate="replace")
        def index(page, text): ...

        def test_the_last_request_counts(assert_enqueued, refute_enqueued):
            first, second = index.delay(1, "a"), index.delay(1, "b")
            assert first.id != second.id
            (found,) = assert_enqueued(index, count=1)
            assert (found.id, found.args) == (second.id, (1, "b"))
            refute_enqueued(index, kwargs={"text": "a"})

        def test_a_message_tells_of_both(assert_enqueued):
            index.delay(1, "a")
            index.delay(1, "b")
            assert_enqueued(index, args=(1, "a"))
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *Enqueued in this test:",
            "E *test_shop.index(1, 'b')  key='page:1'*",
            "E *Replaced by a later request before they began:",
            "E *test_shop.index(1, 'a')  key='page:1'*",
        ]
    )


def test_what_nothing_could_match_is_an_error_of_the_test(project: Project) -> None:
    result = project(
        test_shop="""
        import pytest
        from celery import chain, group
        from shop import app, charge, send_mail

        @pytest.fixture(params=["assert_enqueued", "refute_enqueued"])
        def assertion(request):
            return request.getfixturevalue(request.param)

        def test_a_name_that_no_task_has(assertion):
            charge.delay(7)
            with pytest.raises(ValueError, match="no task 'shop.chrage'; did you mean 'shop.charge'"):
                assertion("shop.chrage")

        def test_what_is_no_task(assertion):
            with pytest.raises(TypeError, match="is no task: give the task, its name"):
                assertion(lambda: 1)

        def test_an_argument_that_the_task_does_not_have(assertion):
            charge.delay(7)
            with pytest.raises(ValueError, match="shop.charge has no argument 'oder'; it has order, amount"):
                assertion(charge, kwargs={"oder": 7})

        def test_arguments_that_the_task_does_not_take(assertion):
            charge.delay(7)
            with pytest.raises(TypeError, match="shop.charge cannot be called with these arguments: too many"):
                assertion(charge, args=(7, 8, 9))

        def test_a_canvas(assertion):
            for canvas in (chain(charge.si(1), charge.si(2)), group(charge.si(1)), "celery.map"):
                with pytest.raises(ValueError, match="look for the tasks that it is made of"):
                    assertion(canvas)

        def test_a_signature_with_arguments(assertion):
            with pytest.raises(ValueError, match="give them as args= and kwargs="):
                assertion(charge.s(7))

        @app.task
        def anything(**more): ...

        def test_any_name_may_be_one_of_many(assertion):
            with pytest.raises(AssertionError):
                assertion(anything, kwargs={"colour": "red"})
                anything.delay(colour="red")
                assertion(anything, kwargs={"colour": "red"})

        def test_a_task_that_only_others_have(assert_enqueued, refute_enqueued):
            refute_enqueued(app.signature("stock.pick"))
            app.send_task("stock.pick", kwargs={"parcel": 1})
            assert_enqueued("stock.pick", kwargs={"parcel": 1}, count=1)
            with pytest.raises(AssertionError):
                refute_enqueued("stock.pick")
            assert_enqueued(app.signature("stock.pick"))
        """
    )
    result.assert_outcomes(passed=15)


def test_a_failing_assertion_tells_what_was_enqueued_instead(project: Project) -> None:
    result = project(
        test_shop="""
        from shop import charge, send_mail

        def test_other(assert_enqueued):
            charge.delay(7, amount=5)
            charge.delay(7, 5)
            send_mail.delay("a@b.c")
            assert_enqueued(charge, key="order:8", kwargs={"amount": 5})

        def test_count(assert_enqueued):
            charge.delay(7)
            assert_enqueued(charge, count=2)

        def test_none(assert_enqueued):
            assert_enqueued(charge)

        def test_refuted(refute_enqueued):
            charge.delay(7)
            refute_enqueued(charge)
        """
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            '*> *assert_enqueued(charge, key="order:8", kwargs={"amount": 5})*',
            "E *AssertionError: shop.charge with key='order:8', kwargs={'amount': 5} was not enqueued.",
            "E *Enqueued in this test:",
            "E *shop.charge(7, amount=5)  key='order:7'  queue='celery'",
            "E *shop.send_mail('a@b.c')  queue='mail'",
            "E *Suppressed as duplicates:",
            "E *shop.charge  key='order:7'  (the run * has it)",
            "E *AssertionError: shop.charge was enqueued once, not 2 times.",
            "E *AssertionError: shop.charge was not enqueued.",
            "E *Nothing was enqueued in this test.",
            "E *AssertionError: shop.charge was enqueued once.",
        ]
    )
    result.stdout.no_fnmatch_line("*testing/assertions.py*")


def test_the_clock_moves_all_that_ends_by_the_stores_time(project: Project) -> None:
    result = project(
        test_shop="""
        from datetime import timedelta
        import pytest
        from celery_stackstate import LockLost
        from shop import app, charge, import_rows

        def test_ttls(state, stackstate_clock):
            state.set("k", 1, ttl=60)
            stackstate_clock.advance(59)
            assert state.get("k") == 1
            stackstate_clock.advance(seconds=1)
            assert state.get("k") is None

        def test_paces(state, stackstate_clock):
            assert state.throttle("api", 1, per=60)
            assert not state.throttle("api", 1, per=60)
            stackstate_clock.advance(timedelta(minutes=1))
            assert state.throttle("api", 1, per=60)

        def test_locks(state, stackstate_clock):
            with pytest.raises(LockLost), state.lock("l", ttl=60) as lock:
                lock.check()
                stackstate_clock.advance(minutes=2)
                assert state.lock_info("l") is None
                with pytest.raises(LockLost):
                    state.set("k", 1, fence=lock)

        def test_a_publish_that_was_confirmed_lasts_until_the_start_deadline(stackstate, stackstate_clock):
            first = charge.delay(7)
            stackstate.recorder.flush()
            stackstate_clock.advance(hours=23)
            assert not charge.delay(7).created
            stackstate_clock.advance(hours=2)
            again = charge.delay(7)
            assert (again.created, again.id == first.id) == (True, True)

        def test_the_retention_of_runs(stackstate, stackstate_clock, run_history, monkeypatch):
            monkeypatch.setitem(app.conf, "task_always_eager", True)
            result = import_rows.delay(7)
            assert run_history(result).status == "SUCCESS"
            stackstate_clock.advance(days=8)
            assert stackstate.purge() > 0
            assert stackstate.runs.get(result.id) is None

        def test_it_starts_at_the_hosts_time_and_goes_on_from_there(stackstate_clock):
            before = stackstate_clock.now
            assert timedelta(0) <= stackstate_clock.advance(90) - before - timedelta(seconds=90) < timedelta(seconds=5)

        def test_it_is_not_set_back(stackstate_clock):
            with pytest.raises(ValueError, match="not by -90 seconds"):
                stackstate_clock.advance(-90)
        """
    )
    result.assert_outcomes(passed=7)
