from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        from billing import checks, receivers, subscription_receivers  # noqa: F401 - registers them
