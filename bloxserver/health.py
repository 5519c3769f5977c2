"""Health pages for load balancers and orchestrators, and the metrics page.

A probe comes by IP address and over plain HTTP, so these are answered before the checks of host name and HTTPS.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse

from bloxserver import metrics
from bloxserver.celery import app
from bloxserver.core.database import missing_migrations

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0


class PartDown(Exception):
    """Why a part cannot do its work, in words that may be shown to anyone."""


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def check_migrations() -> None:
    if missing := missing_migrations():
        raise PartDown(f"{len(missing)} migrations are not applied: run `manage.py migrate`.")


def check_broker() -> None:
    with app.connection_for_write(connect_timeout=1) as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, timeout=1)
        folder = settings.CELERY_BROKER_TRANSPORT_OPTIONS.get("folder")
        if folder and not os.access(folder, os.W_OK):
            raise PartDown("The broker's folder cannot be written.")


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "migrations": check_migrations,
    "broker": check_broker,
}
REQUIRED = {"database", "migrations"}  # without the broker triggers are still accepted, and run when it is back

# A check that hangs holds its thread; once all are held, the parts are reported down without a wait for a thread.
_threads = ThreadPoolExecutor(max_workers=2 * len(CHECKS), thread_name_prefix="health")


def _run(check: Callable[[], None]) -> None:
    try:
        check()
    finally:
        connection.close()  # this thread's own


def _outcome(name: str, future: Future[None]) -> dict[str, str | None]:
    try:
        future.result(timeout=CHECK_SECONDS)
    except FutureTimeoutError:
        future.cancel()
        return {"status": "down", "message": f"No answer within {CHECK_SECONDS:g} s."}
    except PartDown as error:
        return {"status": "down", "message": str(error)}
    except Exception as error:
        logger.warning("Health check of %s failed: %s", name, error)
        return {"status": "down", "message": f"{type(error).__name__}; the server's log says more."}
    return {"status": "ok", "message": None}


def live(request: HttpRequest) -> HttpResponse:
    """This process answers."""
    return JsonResponse({"status": "ok"})


def ready(request: HttpRequest) -> HttpResponse:
    """`{status: ok | degraded | down, parts: {name: {status, message}}}`; 503 when a required part is down."""
    futures = {name: _threads.submit(_run, check) for name, check in CHECKS.items()}
    parts = {name: _outcome(name, future) for name, future in futures.items()}
    down = {name for name, part in parts.items() if part["status"] == "down"}
    status = "down" if down & REQUIRED else "degraded" if down else "ok"
    return JsonResponse({"status": status, "parts": parts}, status=503 if status == "down" else 200)


PROBES: dict[str, Callable[[HttpRequest], HttpResponse]] = {
    "/health": ready,
    "/health/live": live,
    "/health/ready": ready,
    "/metrics": metrics.view,
}


class ProbeMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = PROBES.get(request.path_info)
        if probe is None:
            return self.get_response(request)
        if request.method not in {"GET", "HEAD"}:
            return HttpResponseNotAllowed(["GET", "HEAD"])
        response = probe(request)
        response["Cache-Control"] = "no-store"
        return response
