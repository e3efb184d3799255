"""The pages in depth: what they say of their examples is checked here, in scripts over the files that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import RunPython
from tests.docs.executing import executes
from tests.docs.pages import DOCS, ROOT, named, scripts

#: What scripts wait with, since the README's app has no result backend.
WAITING = (
    "import time\n"
    "from celery_stackstate import StackState\n"
    "def finished(result, status='SUCCESS'):\n"
    "    deadline = time.monotonic() + 20\n"
    "    while True:\n"
    "        run = StackState.of(app).runs.get(result.id)\n"
    "        if run is not None and run.finished: break\n"
    "        assert time.monotonic() < deadline, run\n"
    "        time.sleep(0.05)\n"
    "    assert run.status == status, run\n"
    "    return run\n"
)


@executes("shop.py", "tasks_progress.py", "webhooks.py", "tasks_lock.py", "tasks_counter.py")
@pytest.mark.usefixtures("worker")
def test_the_quickstart_and_the_examples_run(run_python: RunPython) -> None:
    calls = scripts(ROOT / "README.md")
    assert len(calls) == 2
    examples = (
        "import tasks_progress, webhooks, tasks_lock, tasks_counter\n"
        "run = finished(tasks_progress.send_newsletter.delay(1, ['a', 'b']))\n"
        "assert run.progress.done == 2\n"
        "event = {'id': 'evt_1', 'kind': 'paid'}\n"
        "assert [webhooks.webhook(event), webhooks.webhook(event)] == [202, 200]\n"
        "assert webhooks.webhook({**event, 'kind': 'refunded'}) == 409\n"
        "first, second = (tasks_lock.rebuild_catalog.delay(1) for _ in range(2))\n"
        "assert finished(first).result != finished(second).result\n"
        "assert finished(tasks_counter.send_sms.delay('+1')).result == 'sent'\n"
        "print('the end')\n"
    )
    printed = run_python("\n".join([WAITING, calls[0], "finished(result)", calls[1], examples]))
    assert "SUCCESS" in printed
    assert printed.endswith("the end\n")


@executes(*named(DOCS / "idempotency.md"))
@pytest.mark.usefixtures("worker")
def test_the_examples_of_idempotent_enqueue_run(run_python: RunPython) -> None:
    script = WAITING + (
        "from datetime import datetime\n"
        "from shop import app\n"
        "import idempotency_beat, idempotency_canvas, idempotency_debounce, idempotency_handles, idempotency_keys\n"
        "import idempotency_rerun\n"
        "assert idempotency_handles.twice(1) == ('SUCCEEDED', True, True)\n"
        "assert idempotency_keys.webhook(2, 5) == idempotency_keys.webhook(2, 5)\n"
        "assert idempotency_keys.webhook(2, 6) == 'stripe:2'\n"
        "assert not idempotency_keys.handle_event.delay({'id': 'e'}).id == idempotency_keys.handle_event.delay({}).id\n"
        "finished(idempotency_keys.fulfil.delay(3))\n"
        "labels = idempotency_canvas.labels('a')\n"
        "assert [finished(one).result for one in labels] == ['a en 500', 'a fr 500']\n"
        "assert idempotency_beat.nightly(datetime(2026, 11, 22)) == 'report:2026-11-22'\n"
        "assert idempotency_debounce.saved(1, 'a') == idempotency_debounce.saved(1, 'b')\n"
        "finished(idempotency_rerun.convert.delay('v'))\n"
        "print('the end')\n"
    )
    assert run_python(script).endswith("the end\n")


@executes("orders_joining.py")
def test_the_example_of_a_session_runs(run_python: RunPython, postgresql_url: str) -> None:
    script = (
        "from celery import Celery\n"
        "from celery_stackstate import StackState, StateTask\n"
        "from sqlalchemy import create_engine, make_url\n"
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\n"
        "import orders_joining\n"
        "class Base(DeclarativeBase): pass\n"
        "class Order(Base):\n"
        "    __tablename__ = 'docs_order'\n"
        "    id: Mapped[int] = mapped_column(primary_key=True)\n"
        "app = Celery('docs', broker='memory://', task_cls=StateTask)\n"
        f"app.conf.stackstate_url = {postgresql_url!r}\n"
        "@app.task\n"
        "def charge(order): ...\n"
        f"engine = create_engine(make_url({postgresql_url!r}).set(drivername='postgresql+psycopg'))\n"
        "Base.metadata.create_all(engine)\n"
        "result = orders_joining.place(engine, StackState.of(app), Order(id=1), charge)\n"
        "import time\n"
        "deadline = time.monotonic() + 10\n"
        "key = lambda: StackState.of(app).idempotency.get('order:1', task=charge.name)\n"
        "while key().state != 'PUBLISHED' and time.monotonic() < deadline: time.sleep(0.05)  # confirmed in batches\n"
        "key = key()\n"
        "print(result.created, key.state, key.run_id == result.id)\n"
    )
    assert run_python(script).split() == ["True", "PUBLISHED", "True"]


@executes(*named(DOCS / "state.md"))
@pytest.mark.usefixtures("worker")
def test_the_examples_of_state_in_depth_run(run_python: RunPython) -> None:
    script = (
        "import state_values, state_locks, state_steps, state_pace\n"
        "from shop import app\n"
        "from celery_stackstate import StackState\n"
        "state, runs = StackState.of(app).state, StackState.of(app).runs\n"
        "def of(task, *args):\n"
        "    import time\n"
        "    result, deadline = task.delay(*args), time.monotonic() + 20\n"
        "    while (run := runs.get(result.id)) is None or not run.finished:\n"
        "        assert time.monotonic() < deadline, run\n"
        "        time.sleep(0.05)\n"
        "    return run.result if run.status == 'SUCCESS' else run.status\n"
        "assert of(state_values.crawl, 'a', 3) == 3\n"
        "assert [of(state_values.rename, 1, name) for name in 'xy'] == [True, True]\n"
        "assert [of(state_values.collect, item) for item in 'ba'] == [['b'], ['a', 'b']]\n"
        "assert of(state_locks.rebuild, 1, 1) > 0\n"
        "assert state.count('catalog:1:built') == 1\n"
        "with state.lock('nightly'):\n"
        "    assert of(state_locks.nightly) == 'IGNORED'\n"
        "assert of(state_locks.nightly) == 'done'\n"
        "assert of(state_locks.export, 3) == 3\n"
        "assert of(state_steps.place_order, 7, 2) == 'charge of 7'\n"
        "assert of(state_pace.call_api, 5) == 5\n"
        "assert [of(state_pace.call_if_free, 5) for _ in range(2)] == ['called', 'called']\n"
        "print('the end')\n"
    )
    assert run_python(script).endswith("the end\n")


@executes(*named(DOCS / "history.md"))
@pytest.mark.usefixtures("worker")
def test_the_examples_of_the_run_history_run(run_python: RunPython) -> None:
    script = WAITING + (
        "from shop import app\n"
        "import history_again, history_family, history_origin, history_reading, history_redacting\n"
        "import history_retention, history_signals, history_telling\n"
        "run = finished(history_telling.import_rows.delay(['a', 'b']))\n"
        "assert (run.progress.done, run.progress.message) == (2, 'b')\n"
        "told = history_reading.report(run.id)\n"
        "assert 'asked for by -c on' in told and 'imported' in told and 'INFO row a' in told, told\n"
        "assert finished(history_telling.import_as_before.delay([1, 2, 3])).meta == {'current': 3, 'total': 3}\n"
        "assert history_reading.failures_of_today('nothing') == ([], None)\n"
        "total, buckets = history_reading.chart()\n"
        "assert total >= 2 and sum(sum(by.values()) for _, by in buckets) == total\n"
        "history_origin.current_user.set(7)\n"
        "order = history_family.ship.delay(1)\n"
        "finished(order)\n"
        "child = StackState.of(app).runs.children(order.id).items[0]\n"
        "finished(child)\n"
        "assert history_origin.asked_by(7) == [child.id, order.id]\n"
        "assert len(history_family.outline(order.id)) == 2\n"
        "history_origin.current_user.set(None)\n"
        "first = finished(history_again.convert.delay('v'))\n"
        "second = StackState.of(app).runs.get(history_again.again(first.id))\n"
        "assert second.rerun_of == first.id\n"
        "paid = finished(history_redacting.transfer.delay(amount=5, iban='DE0212345678', pin=1234))\n"
        "assert paid.kwargs['iban'] == '…5678' and '1234' not in str(paid.kwargs['pin'])\n"
        "assert history_retention.tidy()[1] == 0\n"
        "print('the end')\n"
    )
    assert run_python(script).endswith("the end\n")


@executes("proj/celery.py", "proj/__init__.py", "proj/settings.py", "orders/tasks.py", "orders/views.py")
def test_the_django_quickstart_runs(run_python: RunPython) -> None:
    script = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'proj.settings'\n"
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('check'); call_command('migrate', verbosity=0)\n"
        "from celery_stackstate import StackState\n"
        "from celery_stackstate.django import DjangoStateTask\n"
        "stackstate = StackState.current()\n"
        "stackstate.state.set('k', 1)\n"
        "from django.contrib.auth.models import Permission\n"
        "print(stackstate.where(), issubclass(stackstate.app.Task, DjangoStateTask))\n"
        "print(sorted(Permission.objects.filter(codename__startswith='view_').values_list('codename', flat=True)))\n"
        "from django.db import transaction\n"
        "from orders import tasks, views\n"
        "stackstate.app.conf.task_default_queue = 'docs-of-django'\n"
        "clicked = [views.place(None, 7).status_code for _ in range(2)]\n"
        "with transaction.atomic():\n"
        "    views.place(None, 8); transaction.set_rollback(True)\n"
        "runs = stackstate.runs.list(task=tasks.charge.name).items\n"
        "print(clicked, [(run.key, run.status) for run in runs])\n"
    )
    printed = run_python(script)
    assert "[202, 202] [('order:7', 'QUEUED')]" in printed
    assert "/2 True" in printed
    assert "view_run" in printed
    assert "view_stateentry" in printed


@executes(*named(DOCS / "admin.md"))
def test_the_examples_of_the_admin_run(run_python: RunPython) -> None:
    script = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'admin_project.settings'\n"
        "import django; django.setup()\n"
        "import admin_project.admin\n"
        "from django.core.management import call_command\n"
        "call_command('check', fail_level='ERROR'); call_command('migrate', verbosity=0)\n"
        "from django.test.utils import setup_test_environment; setup_test_environment()\n"
        "from django.contrib.auth.models import User\n"
        "from django.test import Client\n"
        "from celery_stackstate import StackState\n"
        "from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite\n"
        "user = User.objects.create_superuser('root')\n"
        "facts = RunFacts(task='shop.import', created=1_763_812_800_000_000, origin=f'user:{user.pk}')\n"
        "runs = StackState.current().runs_store\n"
        "runs.append([RunWrite('docs-admin-run', 1, facts, RunStanding(status='FAILURE'), [])])\n"
        "client = Client(); client.force_login(user)\n"
        "assert client.get('/admin/celery_stackstate_admin/run/').status_code == 200\n"
        "page = client.get(f'/admin/auth/user/{user.pk}/change/').content.decode()\n"
        "assert 'Background work' in page and 'shop.import' in page\n"
        "assert client.get('/progress/docs-admin-run/').json()['status'] == 'FAILURE'\n"
        "assert Client().get('/progress/docs-admin-run/').status_code == 404\n"
        "runs.remove_runs(['docs-admin-run'])\n"
        "print('the end')\n"
    )
    assert run_python(script).endswith("the end\n")


@executes("django_store/settings.py")
def test_the_django_store_of_the_docs_joins_transactions(project: Path, run_python: RunPython) -> None:
    settings = project / "django_store" / "settings.py"
    settings.write_text(settings.read_text().replace('":memory:"', f'"{project}/db.sqlite3"'))
    script = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'django_store.settings'\n"
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from django.db import transaction\n"
        "from celery import Celery\n"
        "from celery_stackstate import InTransaction, StackState\n"
        "app = Celery('django_store')\n"
        "app.config_from_object('django.conf:settings', namespace='CELERY')\n"
        "state = StackState(app).state\n"
        "with transaction.atomic():\n"
        "    state.set('k', 1)\n"
        "    transaction.set_rollback(True)\n"
        "assert state.get('k') is None\n"
        "try:\n"
        "    with transaction.atomic(), state.lock('l'): pass\n"
        "except InTransaction:\n"
        "    print('refused')\n"
    )
    assert run_python(script) == "refused\n"
