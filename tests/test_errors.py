"""Errors survive the ways in which Celery carries them, and say what happened."""

from __future__ import annotations

import pickle

import pytest
from celery import Celery

import celery_stackstate
from celery_stackstate import errors
from celery_stackstate.worker.requeue import Postponed

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_survives_pickling_with_what_it_carries(error: type[errors.StackStateError]) -> None:
    original = error("something happened", key="k", retry_after=1.5)
    copy = pickle.loads(pickle.dumps(original))
    assert (type(copy), copy.args, vars(copy)) == (error, original.args, vars(original))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_the_docstring_is_the_default_message(error: type[errors.StackStateError]) -> None:
    assert str(error()) == (error.__doc__ or "").strip()
    assert issubclass(error, errors.StackStateError)
    assert error.__name__ in celery_stackstate.__all__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_survives_the_json_result_backend(error: type[errors.StackStateError]) -> None:
    backend = Celery(set_as_current=False, backend="cache+memory://").backend
    stored = backend.decode(backend.encode(backend.prepare_exception(error("it happened", key="k"))))
    found = backend.exception_to_python(stored)
    assert (type(found), str(found)) == (error, "it happened")


def test_a_postponement_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Postponed("later", exc=errors.LockBusy("busy", name="l"), when=2.5)))
    assert (copy.when, copy.exc.name) == (2.5, "l")
