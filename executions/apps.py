from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ExecutionsConfig(AppConfig):
    name = "executions"

    def ready(self) -> None:
        from executions import receivers, tally  # noqa: F401 - connects the receivers

        post_migrate.connect(tally.install, sender=self)
