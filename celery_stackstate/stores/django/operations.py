"""The migration operation that makes the tables by the statements that all SQL stores share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import router
from django.db.migrations.operations.base import Operation

from celery_stackstate.stores.django.vendors import VENDORS
from celery_stackstate.stores.schema import MIGRATIONS

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState


class SchemaStep(Operation):
    """One step of `schema.MIGRATIONS`; backwards it drops the tables named here. Other databases are left alone."""

    reversible = True

    def __init__(self, step: int, drops: tuple[str, ...] = ()) -> None:
        self.step, self.drops = step, drops

    def deconstruct(self) -> Any:
        """Return how to make this operation again."""
        return type(self).__name__, [self.step, self.drops], {}

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Leave the models to the operations beside this one."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Do the step."""
        vendor = VENDORS.get(schema_editor.connection.vendor)
        if vendor is not None and router.allow_migrate(schema_editor.connection.alias, app_label):
            for statement in MIGRATIONS[self.step](vendor.dialect):
                schema_editor.execute(vendor.dialect.native(statement), None)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Drop the tables."""
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            for table in self.drops:
                schema_editor.execute(f"DROP TABLE IF EXISTS {table}", None)

    def describe(self) -> str:
        """Say what `manage.py` shows."""
        return f"Step {self.step + 1} of the tables of celery-stackstate"
