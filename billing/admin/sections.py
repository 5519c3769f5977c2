"""What apps above this one show on a customer's page: they know what this one may not."""

from collections.abc import Callable
from datetime import datetime

from django.utils.safestring import SafeString

from accounts.models import User

Section = Callable[[User, datetime], SafeString]

_sections: list[Section] = []


def customer_section(show: Section) -> Section:
    """Registers a function of a user and the moment that gives HTML; called when an app's admin is imported."""
    _sections.append(show)
    return show


def sections_of(user: User, *, now: datetime) -> list[SafeString]:
    return [show(user, now) for show in _sections]
