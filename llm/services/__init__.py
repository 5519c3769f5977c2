"""What can be done with providers and keys. Each verb owns its transaction; the apps above import from here."""

from llm.path.limits import allowance_of
from llm.services.endpoints import endpoints_for, forget_pool, unknown_model_reason
from llm.services.keys import add_key, mark_key_refused, mark_key_valid, remove_key, touch_key
from llm.services.path import close_breaker, forget_answers, rate_headers, standings
from llm.services.pool import check_provider, switch_provider

__all__ = [
    "add_key",
    "allowance_of",
    "check_provider",
    "close_breaker",
    "endpoints_for",
    "forget_answers",
    "forget_pool",
    "mark_key_refused",
    "mark_key_valid",
    "rate_headers",
    "remove_key",
    "standings",
    "switch_provider",
    "touch_key",
    "unknown_model_reason",
]
