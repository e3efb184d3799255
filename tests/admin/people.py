"""Staff with just the permissions that a test names."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.test import Client


def who_may(*codenames: str) -> Client:
    """Return a client of staff that has these permissions of the app and no other."""
    name = "-".join(codenames) or "nobody"
    user, _ = User.objects.get_or_create(username=name[:150], defaults={"is_staff": True})
    found = Permission.objects.filter(codename__in=codenames, content_type__app_label="celery_stackstate_admin")
    assert {one.codename for one in found} == set(codenames)
    user.user_permissions.set(found)
    client = Client(raise_request_exception=True)
    client.force_login(user)
    return client
