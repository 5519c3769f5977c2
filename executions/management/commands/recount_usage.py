from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import User
from billing.periods import period_of
from executions.usage.recount import recount


class Command(BaseCommand):
    help = (
        "Recounts a period's runs and model usage from what is on record, and prints each difference to what is counted. "
        "Exit status 1 where one is left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user", metavar="EMAIL", help="This user's alone.")
        when = parser.add_mutually_exclusive_group()
        when.add_argument("--period", metavar="YYYY-MM", type=_month, help="The period in which this month begins.")
        when.add_argument("--at", metavar="TIMESTAMP", type=_moment, help="The period of this moment (ISO 8601; UTC).")
        parser.add_argument("--fix", action="store_true", help="Set the count right by which the free tier is refused.")

    def handle(self, *args: Any, **options: Any) -> None:
        now = options["period"] or options["at"] or timezone.now()
        users = left = 0
        for user in _users(options["user"]):
            users += 1
            for difference in recount(user=user, period=period_of(user=user, now=now), fix=options["fix"]):
                left += not difference.fixed
                self.stdout.write(f"{user.email}: {difference}")
        if left:
            raise CommandError(f"{users:,} users recounted, {left:,} differences left.")
        self.stdout.write(f"{users:,} users recounted, no difference left.")


def _users(email: str | None) -> Any:
    if email is None:
        return User.objects.order_by("pk").iterator()
    user = User.objects.filter(email__iexact=email).first()
    if user is None:
        raise CommandError(f"There is no user {email!r}.")
    return [user]


def _month(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
