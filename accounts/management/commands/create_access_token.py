from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import Scope, User
from accounts.services import create_access_token
from bloxserver.core.errors import DomainError

MAX_DAYS = 36_500


class Command(BaseCommand):
    help = "Makes a personal access token and prints it. It cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--name", default="command line")
        parser.add_argument(
            "--scopes", default=",".join(Scope.values), help="comma-separated: read, write (default both)"
        )
        parser.add_argument("--days", type=int, help="how long it is good for; without it, it never expires")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(email__iexact=options["email"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user {options['email']!r}.")
        days = options["days"]
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--days must be from 1 to {MAX_DAYS}.")
        try:
            _, secret = create_access_token(
                user=user,
                name=options["name"][:100],
                scopes=[scope.strip() for scope in options["scopes"].split(",") if scope.strip()],
                expires_at=None if days is None else timezone.now() + timedelta(days=days),
            )
        except DomainError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(secret)
