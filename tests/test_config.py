"""Settings: read once, from every place that Celery reads, and checked as a whole."""

from __future__ import annotations

import logging
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_stackstate import ConfigurationError, StackState
from celery_stackstate.config import Settings, hide_password, read_settings, resolve_url
from celery_stackstate.log_tail import LogLimits


def app_with(**settings: Any) -> Celery:
    app = Celery("config", set_as_current=False)
    app.conf.update(settings)
    return app


def test_the_defaults_need_nothing() -> None:
    assert read_settings(app_with()) == Settings()


def test_settings_are_read_from_a_namespace_an_object_and_keywords() -> None:
    class Django:
        CELERY_STACKSTATE_URL = "redis://a/1"
        CELERY_STACKSTATE_PREFIX = "staging"
        CELERY_STACKSTATE_ENABLED = False

    app = Celery("a", set_as_current=False)
    app.config_from_object(Django, namespace="CELERY")
    read = read_settings(app)
    assert (read.url, read.prefix, read.enabled) == ("redis://a/1", "staging", False)
    app = Celery("b", set_as_current=False)
    app.config_from_object({"stackstate_url": "redis://b/1"})
    assert read_settings(app).url == "redis://b/1"
    assert read_settings(Celery("c", set_as_current=False, stackstate_url="redis://c/1")).url == "redis://c/1"


def test_an_unknown_setting_is_refused_with_the_right_one() -> None:
    with pytest.raises(ConfigurationError, match="did you mean stackstate_url"):
        read_settings(app_with(stackstate_ulr="redis://"))
    with pytest.raises(ConfigurationError, match="known are"):
        read_settings(app_with(stackstate_zzz=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", 7),
        ("url", "nonsense"),
        ("prefix", "a b"),
        ("prefix", "x" * 65),
        ("store_timeout", 0),
        ("store_timeout", True),
        ("max_value_bytes", 1.5),
        ("worker_lease", "30"),
        ("redact", "password"),
        ("redact", None),
        ("redact", 5),
        ("log_level", "LOUD"),
        ("run_retention", {"DONE": 5}),
        ("run_retention", {"SUCCESS": 0}),
        ("run_limits", 0),
        ("run_limits", {"STARTED": 5}),
        ("run_limits", {"SUCCESS": 0}),
        ("log_limits", 100),
        ("log_limits", {"rows": 1}),
        ("log_limits", {"lines": -1}),
        ("origin", 7),
        ("origin", "no.such.module.who"),
        ("redact_hook", "os.path.nothing"),
        ("redact_hook", "nothing"),
        ("record_all", "yes"),
        ("record_eager", 1),
        ("claim_outage", "ignore"),
        ("enabled", 0),
        ("enabled", "no"),
        ("max_deliveries", 0),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"stackstate_{name}"):
        read_settings(app_with(**{f"stackstate_{name}": value}))


def test_values_are_taken_in_the_forms_people_write() -> None:
    settings = read_settings(
        app_with(
            stackstate_log_level="warning", stackstate_run_retention={"FAILURE": 900_000}, stackstate_redact=["pin"]
        )
    )
    assert (settings.log_level, settings.redact) == (logging.WARNING, ("pin",))
    assert (settings.retention("FAILURE"), settings.retention("SUCCESS")) == (900_000, 604_800)
    assert settings.longest_retention == settings.retention("LOST") == 2_592_000


def test_functions_are_taken_as_they_are_and_by_their_path() -> None:
    settings = read_settings(app_with(stackstate_origin="os.getcwd", stackstate_redact_hook="operator:add"))
    assert (settings.origin, settings.redact_hook) == (os.getcwd, operator.add)
    assert read_settings(app_with(stackstate_origin=os.getcwd)).origin is os.getcwd


def test_limits_are_for_each_status_that_ends_a_run_and_logs_have_their_own() -> None:
    settings = read_settings(app_with(stackstate_run_limits=100, stackstate_log_limits={"lines": 5}))
    assert set(settings.most_runs()) == {"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED", "LOST"}
    assert settings.log_limits == LogLimits(lines=5)
    assert read_settings(app_with(stackstate_run_limits={"SUCCESS": 7})).most_runs() == {"SUCCESS": 7}
    assert read_settings(app_with()).most_runs() == {}


@pytest.mark.parametrize("url", ["nosuch://x", "://", "sqlite://", "sqlite://host/file"])
def test_a_url_that_no_store_serves_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="stackstate_url"):
        _ = StackState(app_with(stackstate_url=url)).store


def test_a_relative_path_lies_beside_the_apps_module_and_an_absolute_one_where_it_says() -> None:
    app = Celery(__name__, set_as_current=False)
    here = Path(__file__).resolve().parent
    assert resolve_url("sqlite:///x.sqlite3", app) == f"sqlite:///{here}/x.sqlite3"
    assert resolve_url("sqlite:////var/x.sqlite3", app) == "sqlite:////var/x.sqlite3"
    assert resolve_url("redis://h/1", app) == "redis://h/1"


def test_a_password_is_not_shown() -> None:
    assert hide_password("redis://me:secret@host/1") == "redis://me:***@host/1"
    assert hide_password("redis://:se@cr:et@host/1") == "redis://:***@host/1"
    assert hide_password("redis://me@host/1?client_name=a@b") == "redis://me@host/1?client_name=a@b"
    assert (
        hide_password("sentinel://me:secret@a:1,b:2/m/0?sentinel_password=s&ssl_password=t&x=1")
        == "sentinel://me:***@a:1,b:2/m/0?sentinel_password=***&ssl_password=***&x=1"
    )
    assert (
        hide_password("postgresql://me@db:s3cret@db.azure.com:5432/x") == "postgresql://me@db:***@db.azure.com:5432/x"
    )
    for password in ("s3c/ret", "s3c?ret", "s3c#ret", "s3/c@r#e?t"):
        assert hide_password(f"postgresql://app:{password}@db/shop?x=1") == "postgresql://app:***@db/shop?x=1"
    assert hide_password("sqlite:////x") == "sqlite:////x"


def test_an_sqlite_path_that_cannot_be_written_is_refused_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    extension = StackState(app_with(stackstate_url=f"sqlite:///{tmp_path}/file/x.sqlite3"))
    for call in (extension.check, lambda: extension.state.set("k", 1)):
        with pytest.raises(ConfigurationError, match=str(tmp_path)):
            call()


def test_attaching_twice_gives_the_same_extension_and_several_apps_must_be_told_apart() -> None:
    first, second = app_with(), app_with()
    assert StackState(first) is StackState(first) is StackState.of(first)
    assert StackState(second) is not StackState(first)
    with pytest.raises(ConfigurationError, match="STACKSTATE_APP"):
        StackState.current()


def test_current_finds_the_only_app_or_says_what_to_do() -> None:
    script = (
        "from celery import Celery\n"
        "from celery_stackstate import StackState, ConfigurationError\n"
        "try: StackState.current()\n"
        "except ConfigurationError as error: print('STACKSTATE_APP' in str(error))\n"
        "from celery_stackstate import StateTask\n"
        "app = Celery('one', task_cls=StateTask)\n"
        "print(StackState.current().app is app)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]


def test_celerys_own_app_of_threads_that_have_no_other_is_not_the_projects() -> None:
    script = (
        "import threading, celery\n"
        "from celery_stackstate import StackState, StateTask\n"
        "app = celery.Celery('one')\n"
        "def t(): ...\n"
        "app.task(base=StateTask, name='t')(t).name\n"
        "thread = threading.Thread(target=lambda: print('t' in celery.current_app.tasks))\n"
        "thread.start(); thread.join()\n"
        "print(StackState.current().app is app)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("url", ["sqlite://", "foo://x", "redis://localhost:abc/2"])
def test_an_error_about_the_store_of_the_history_names_its_setting(url: str) -> None:
    extension = StackState(app_with(stackstate_url="memory://", stackstate_runs_url=url))
    with pytest.raises(ConfigurationError, match=r"^stackstate_runs_url: "):
        extension.check()
    with pytest.raises(ConfigurationError, match=r"^stackstate_url: "):
        StackState(app_with(stackstate_url=url)).check()


def test_a_missing_driver_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "from celery_stackstate.stores import open_store\n"
        "open_store('redis://localhost/1').get(b'k')\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ConfigurationError" in run.stderr
    assert "celery-stackstate[redis]" in run.stderr


def test_importing_the_package_loads_no_driver() -> None:
    script = "import sys, celery_stackstate; print([m for m in ('redis', 'django.db', 'sqlite3') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_relative_path_without_a_place_to_start_from_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"Celery\(__name__\)"):
        resolve_url("sqlite:///x.sqlite3", Celery("no_such_module", set_as_current=False))


def test_a_keyed_publish_on_the_unset_default_warns_once(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from celery import Celery\n"
        "from celery_stackstate import StateTask\n"
        "app = Celery(__name__, broker='memory://', task_cls=StateTask)\n"
        "@app.task\n"
        "def pay(): pass\n"
    )
    script = "import shop; [shop.pay.apply_async(idempotency_key=key) for key in 'aab']"
    command, root = [sys.executable, "-c", script], str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert run.stderr.count("stackstate_url is not set") == 1
    assert str(tmp_path / "stackstate.sqlite3") in run.stderr


def test_the_name_of_the_app_may_stand_among_djangos_settings() -> None:
    class Django:
        STACKSTATE_APP = "proj.celery:app"
        CELERY_STACKSTATE_URL = "memory://"

    app = Celery("a", set_as_current=False)
    app.config_from_object(Django, namespace="CELERY")
    assert read_settings(app).url == "memory://"


def test_a_setting_that_celery_does_not_find_is_told_and_what_is_not_ours_is_left_alone() -> None:
    class Django:
        STACKSTATE_HOST = "redis.internal"
        CELERY_STACKSTATE_URL = "memory://"

    app = Celery("a", set_as_current=False)
    app.config_from_object(Django, namespace="CELERY")
    assert read_settings(app).url == "memory://"
    app.conf["STACKSTATE_PREFIX"] = "shop"
    with pytest.raises(ConfigurationError, match=r"STACKSTATE_PREFIX is not read .* call it CELERY_STACKSTATE_PREFIX"):
        read_settings(app)
    with pytest.raises(ConfigurationError, match=r"STACKSTATE_URL is not read .* call it stackstate_url"):
        read_settings(app_with(STACKSTATE_URL="memory://"))
