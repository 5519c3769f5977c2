"""Celery's way in: shells around one call each, safe to be delivered twice or never."""

from celery import shared_task
from django.utils import timezone

from llm import notices
from llm.dispatch import Job


@shared_task(name=Job.TELL, ignore_result=True)
def tell_of_refused_keys() -> None:
    notices.tell_of_refused_keys(now=timezone.now())
