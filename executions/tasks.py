"""Celery's way in: shells around one call each, safe to be delivered twice or never."""

from celery import shared_task
from django.utils import timezone

from bloxserver.core.background import Background
from executions import flow_caps, history, overage, tally
from executions.bulk import services as bulk
from executions.dispatch import Job
from executions.engine import shutdown  # noqa: F401 - its flag must be made before the worker forks
from executions.usage import notices


@shared_task(name=Job.DRAIN, ignore_result=True)
def drain() -> None:
    from executions.engine.worker import worker  # the engine is the workers' alone: web and clock do without

    worker().drain()
    worker().ring_for_what_is_left()


@shared_task(name=Job.SWEEP, ignore_result=True)
def sweep() -> None:
    from executions.engine.sweeper import sweep

    sweep()


@shared_task(name=Job.FOLD, ignore_result=True)
def fold_tallies() -> None:
    tally.fold()


@shared_task(name=Job.PRUNE, ignore_result=True)
def prune_history() -> None:
    history.prune_history(now=timezone.now(), turns=1)
    bulk.prune_operations(now=timezone.now())


@shared_task(name=Job.NOTICE_RUNS, ignore_result=True)
def notice_runs() -> None:
    notices.notice_runs(now=timezone.now())


@shared_task(name=Job.OPERATE, ignore_result=True)
def work_operations() -> None:
    bulk.work_operations(now=timezone.now())


@shared_task(name=Job.REVIEW, ignore_result=True)
def review_flow_caps() -> None:
    flow_caps.review_flow_caps(now=timezone.now())


@shared_task(name=Job.OVERAGE, ignore_result=True)
def report_overage() -> None:
    overage.report_overage(now=timezone.now())


@shared_task(name=Job.FAILURES, ignore_result=True)
def failures() -> None:
    _failures.start()  # the clock must tick on, however slow a receiver or mail server is


def _see_to_failures() -> None:
    from executions.notices import work_off_failures

    work_off_failures()


_failures = Background(_see_to_failures, "executions-failures")
