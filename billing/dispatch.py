"""The names of this app's Celery tasks."""

from enum import StrEnum


class Job(StrEnum):
    KEEP_BUDGETS = "billing.keep_budgets"  # beat sends it; settings say how often, and to which queue
