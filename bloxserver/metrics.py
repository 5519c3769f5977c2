"""Prometheus metrics. Each is read from the database at the scrape: the truth is there, whichever process is asked."""

import hmac
import ipaddress
from collections.abc import Iterable
from datetime import datetime

from django.conf import settings
from django.db.models import Count, Min
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from billing.services import concurrency_caps
from executions.models import Execution, State
from flows.models import Flow, FlowStatus
from triggers.models import Trigger


class DatabaseCollector(Collector):
    def describe(self) -> Iterable[Metric]:
        return []  # so that registering asks the database nothing

    def collect(self) -> Iterable[Metric]:
        now = timezone.now()
        yield from _executions(now)
        yield _tenants_at_cap()
        yield _flows()
        late = Trigger.objects.filter(next_fire_at__lt=now).aggregate(oldest=Min("next_fire_at"))["oldest"]
        yield GaugeMetricFamily(
            "bloxserver_schedule_lateness_seconds",
            "How long the schedule that is most overdue has been due.",
            _age(late, now),
        )


def _executions(now: datetime) -> Iterable[Metric]:
    states = GaugeMetricFamily("bloxserver_executions", "Executions that have not ended, by state.", labels=["state"])
    alive = Execution.objects.exclude(state=State.ENDED).order_by()
    counts = dict(alive.values_list("state").annotate(Count("pk")))
    for state in (State.QUEUED, State.WORKING, State.PARKED):
        states.add_metric([state.value], counts.get(state.value, 0))
    yield states

    oldest = alive.filter(state=State.QUEUED, due_at__lte=now).aggregate(oldest=Min("due_at"))["oldest"]
    yield GaugeMetricFamily(
        "bloxserver_queue_oldest_seconds", "How long the execution that waits longest has been due.", _age(oldest, now)
    )
    expired = alive.filter(state=State.WORKING, lease_until__lt=now).aggregate(
        count=Count("pk"), oldest=Min("lease_until")
    )
    yield GaugeMetricFamily(
        "bloxserver_leases_expired", "Executions whose worker has stopped renewing.", expired["count"]
    )
    yield GaugeMetricFamily(
        "bloxserver_lease_overrun_seconds",
        "How long ago the oldest of those leases ended.",
        _age(expired["oldest"], now),
    )


def _tenants_at_cap() -> Metric:
    caps = concurrency_caps()
    holding = Execution.objects.filter(state=State.WORKING).order_by().values_list("user__tier", "user")
    count = sum(leases >= caps.of(user, tier) for tier, user, leases in holding.annotate(Count("pk")))
    return GaugeMetricFamily(
        "bloxserver_tenants_at_cap", "Tenants that have as many executions worked on as they may.", count
    )


def _flows() -> Metric:
    family = GaugeMetricFamily("bloxserver_flows", "Flows, by status.", labels=["status"])
    counts = dict(Flow.objects.order_by().values_list("status").annotate(Count("pk")))
    for status in FlowStatus.values:
        family.add_metric([status], counts.get(status, 0))
    return family


def _age(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


registry = CollectorRegistry()
registry.register(DatabaseCollector())
ProcessCollector(registry=registry)


def view(request: HttpRequest) -> HttpResponse:
    """The metrics, for who shows `BLOX_METRICS_TOKEN` as a bearer token; without a token set, for this machine alone."""
    if not _may_read(request):
        return HttpResponse(
            "Send BLOX_METRICS_TOKEN as a bearer token.\n", status=401, headers={"WWW-Authenticate": "Bearer"}
        )
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _may_read(request: HttpRequest) -> bool:
    if settings.BLOX_METRICS_TOKEN:
        expected = f"Bearer {settings.BLOX_METRICS_TOKEN}"
        return hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode())
    # What a proxy on this machine passes on comes from this machine too: it is told by the header that proxies add.
    forwarded = request.headers.get("X-Forwarded-For") or request.headers.get("Forwarded") or settings.BLOX_NUM_PROXIES
    return not forwarded and _is_loopback(request.META.get("REMOTE_ADDR", ""))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
