"""Columns as the SQL of the store needs them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from django.db import models

from celery_stackstate.stores.django.vendors import VENDORS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    Field = models.Field[Any, Any]
else:
    Field = models.Field

#: The kinds of columns that hold bytes.
BINARY = ("key", "blob")


class NativeField(Field):
    """A column of the type that the database's dialect has for `kind`."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.kind = kind
        super().__init__(**options)

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        """Return the column's type."""
        vendor = VENDORS.get(connection.vendor)
        return None if vendor is None else str(getattr(vendor.dialect, self.kind))

    def value_to_string(self, obj: Any) -> str:
        """Return a value as a fixture has it: bytes as Base64, as of Django's BinaryField; MySQL has texts as bytes."""
        value = self.value_from_object(obj)
        if not isinstance(value, (bytes, memoryview)):
            return super().value_to_string(obj)
        return (b64encode(value) if self.kind in BINARY else bytes(value)).decode()

    def get_prep_value(self, value: Any) -> Any:
        """Return what a fixture has as the column holds it. (`to_python` is not asked for parts of a primary key.)"""
        value = super().get_prep_value(value)
        return b64decode(value) if self.kind in BINARY and isinstance(value, str) else value

    def deconstruct(self) -> Any:
        """Return how to make this field again, for migrations."""
        name, path, args, options = super().deconstruct()
        return name, path, [self.kind, *args], options
