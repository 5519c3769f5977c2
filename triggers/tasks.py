"""Celery's side of the clock. Safe to run twice, late, or in several clocks at once."""

from celery import shared_task
from django.utils import timezone

from triggers import services
from triggers.dispatch import Job


@shared_task(name=Job.TICK, ignore_result=True)
def tick() -> None:
    now = timezone.now()
    services.tick(now=now)
    services.release_deliveries(now=now)
    services.prune_ledgers(now)
