"""What can be done with triggers. Each verb owns its transaction."""

from triggers.services.deliveries import record_duplicate, record_refusal, release_deliveries, replay_delivery
from triggers.services.ledgers import prune_ledgers
from triggers.services.origins import origin_of
from triggers.services.schedules import arm_flow, disarm_flow, preview
from triggers.services.ticks import tick
from triggers.services.triggers import (
    create_trigger,
    delete_trigger,
    delete_triggers_of,
    export_triggers,
    fire_trigger,
    import_triggers,
    regenerate_token,
    update_trigger,
)
from triggers.services.webhooks import (
    Acceptance,
    Arrival,
    Call,
    Origin,
    accept_webhook,
    accept_webhooks,
    find_webhook,
    find_webhooks,
    require_enabled,
    verify_signature,
)

__all__ = [
    "Acceptance",
    "Arrival",
    "Call",
    "Origin",
    "accept_webhook",
    "accept_webhooks",
    "arm_flow",
    "create_trigger",
    "delete_trigger",
    "delete_triggers_of",
    "disarm_flow",
    "export_triggers",
    "find_webhook",
    "find_webhooks",
    "fire_trigger",
    "import_triggers",
    "origin_of",
    "preview",
    "prune_ledgers",
    "record_duplicate",
    "record_refusal",
    "regenerate_token",
    "release_deliveries",
    "replay_delivery",
    "require_enabled",
    "tick",
    "update_trigger",
    "verify_signature",
]
