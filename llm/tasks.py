"""Celery's way in: shells around one call each, safe to be delivered twice or never."""

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from llm import notices
from llm.dispatch import Job
from llm.services import path


@shared_task(name=Job.TELL, ignore_result=True)
def tell_of_refused_keys() -> None:
    notices.tell_of_refused_keys(now=timezone.now())


@shared_task(name=Job.FORGET, ignore_result=True)
def forget_answers(user_id: str) -> None:
    path.forget_answers_here(UUID(user_id))


@shared_task(name=Job.CLOSE, ignore_result=True)
def close_breaker(provider_id: str) -> None:
    path.close_breaker_here(provider_id)
