"""System checks: settings that name tiers. `manage.py check` and every start run them."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from billing.tiers import TIERS


@register("blox")
def check_worker_tiers(**kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f'BLOX_WORKER_TIERS: there is no tier "{tier}".',
            hint=f"Name some of {', '.join(TIERS)}, or leave it empty for all.",
            id="blox.E007",
        )
        for tier in settings.BLOX_WORKER_TIERS
        if tier not in TIERS
    ]
