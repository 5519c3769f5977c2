"""The names of this app's Celery tasks."""

from enum import StrEnum


class Job(StrEnum):
    TICK = "triggers.tick"  # beat sends it each second; settings say to which queue
