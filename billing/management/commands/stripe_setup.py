from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.errors import BillingNotConfigured
from billing.stripe.client import said
from billing.stripe.setup import set_up


class Command(BaseCommand):
    help = "Makes at Stripe what is needed to sell: products, prices, the meter, the portal. Can be run again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--webhook-url",
            default="",
            help="Also the webhook endpoint, such as https://blox.example.com/webhooks/stripe; prints its secret, once.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            for line in set_up(webhook_url=options["webhook_url"]):
                self.stdout.write(line)
        except BillingNotConfigured as error:
            raise CommandError("STRIPE_API_KEY is not set.") from error
        except Exception as error:
            raise CommandError(said(error)) from error
