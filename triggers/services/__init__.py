"""What can be done with triggers. Each verb owns its transaction."""

from triggers.services.schedules import arm_flow, disarm_flow, preview, tick
from triggers.services.triggers import (
    create_trigger,
    delete_trigger,
    export_triggers,
    fire_trigger,
    import_triggers,
    regenerate_token,
    update_trigger,
)
from triggers.services.webhooks import Delivery, accept_webhook, expire_receipts, find_webhook

__all__ = [
    "Delivery",
    "accept_webhook",
    "arm_flow",
    "create_trigger",
    "delete_trigger",
    "disarm_flow",
    "expire_receipts",
    "export_triggers",
    "find_webhook",
    "fire_trigger",
    "import_triggers",
    "preview",
    "regenerate_token",
    "tick",
    "update_trigger",
]
