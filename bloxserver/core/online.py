"""Operations of migrations that are run while the server works."""

from typing import Any

from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db.migrations import AddConstraint, AddIndex


class AddIndexOnline(AddIndexConcurrently):
    """An index that is made without keeping writers waiting, where the database can: on PostgreSQL.

    The migration needs `atomic = False`. One that is interrupted leaves an invalid index: drop it, and migrate again.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        operation = AddIndexConcurrently if schema_editor.connection.vendor == "postgresql" else AddIndex
        operation.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        operation = AddIndexConcurrently if schema_editor.connection.vendor == "postgresql" else AddIndex
        operation.database_backwards(self, app_label, schema_editor, from_state, to_state)


class AddCheckOnline(AddConstraintNotValid):
    """A check that holds for new rows at once, and for those that are there after a look at each, which keeps no writer
    waiting: on PostgreSQL.

    The migration needs `atomic = False`. One that is interrupted leaves the check in force but not validated: drop it, and
    migrate again.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            AddConstraint.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        validate = ValidateConstraint(self.model_name, self.constraint.name)
        validate.database_forwards(app_label, schema_editor, from_state, to_state)
