"""The names of this app's Celery tasks."""

from enum import StrEnum


class Job(StrEnum):
    TELL = "llm.tell_of_refused_keys"  # beat sends it each minute
