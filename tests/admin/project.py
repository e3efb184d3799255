"""The Celery app whose store the admin shows in these tests."""

from __future__ import annotations

from celery import Celery

from celery_stackstate import StackState

app = Celery("shop", broker="memory://", set_as_current=False)
app.conf.stackstate_url = "memory://admin-tests"
extension = StackState(app)
