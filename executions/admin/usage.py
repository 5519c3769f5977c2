"""A customer's usage, on billing's page of the customer: billing itself has no executions to count."""

from datetime import UTC, datetime, timedelta

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from accounts.models import User
from billing.admin.sections import customer_section
from executions.usage.counting import daily, dashboard
from executions.usage.plot import plot_of

DAYS = 30


@customer_section
def usage_section(user: User, now: datetime) -> SafeString:
    """The period that is under way beside the limit, and the runs of the last `DAYS` days (UTC) as bars."""
    today = now.astimezone(UTC).date()
    days = daily(user=user, first=today - timedelta(days=DAYS - 1), last=today)
    context = {"usage": dashboard(user=user, now=now), "plot": plot_of(days)}
    return render_to_string("admin/executions/customer_usage.html", context)
