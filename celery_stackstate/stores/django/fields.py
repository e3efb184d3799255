"""Columns as the SQL of the store needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

from celery_stackstate.stores.django.vendors import VENDORS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    Field = models.Field[Any, Any]
else:
    Field = models.Field


class NativeField(Field):
    """A column of the type that the database's dialect has for `kind`."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind = kind
        super().__init__(**options)

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        """Return the column's type."""
        vendor = VENDORS.get(connection.vendor)
        return None if vendor is None else str(getattr(vendor.dialect, self.kind))

    def deconstruct(self) -> Any:
        """Return how to make this field again, for migrations."""
        name, path, args, options = super().deconstruct()
        return name, path, [self.kind, *args], options
