from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Tier, User
from accounts.services import set_tier


class Command(BaseCommand):
    help = "Puts a user on a tier."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("tier", choices=Tier.values)

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(email__iexact=options["email"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['email']!r}.")
        before = user.tier
        set_tier(user=user, tier=options["tier"])
        self.stdout.write(f"{user.email}: {before} -> {user.tier}")
