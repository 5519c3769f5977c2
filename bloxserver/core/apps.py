from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "bloxserver.core"
    label = "core"

    def ready(self) -> None:
        from bloxserver.core import checks  # noqa: F401  registers them
