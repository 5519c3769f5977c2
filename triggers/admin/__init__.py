"""The operators' view of triggers and of their ledgers."""

from triggers.admin.ledgers import DeliveryAdmin, MomentAdmin
from triggers.admin.triggers import TriggerAdmin

__all__ = ["DeliveryAdmin", "MomentAdmin", "TriggerAdmin"]
