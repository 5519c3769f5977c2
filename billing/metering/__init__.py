"""Metering of model calls: what each came to, and the budgets that parallel calls cannot pass.

A call is reserved before it is made (`reserve_llm`), and settled once it is known what it came to (`settle_all`) or
released when it surely was not charged (`release_llm`). What is neither, since its worker died, is counted as spent.

Flows are known by their ids and names as values, as executions know their triggers.
"""

from billing.metering.calls import MeteredCall, Passed, Reservation
from billing.metering.reservations import lapse_expired, release_llm, reserve_llm
from billing.metering.settling import settle_all

__all__ = [
    "MeteredCall",
    "Passed",
    "Reservation",
    "lapse_expired",
    "release_llm",
    "reserve_llm",
    "settle_all",
]
