"""Tickets for event streams: a browser's EventSource cannot send an Authorization header.

A ticket is signed with the server's `SECRET_KEY` (django.core.signing), names one user and one execution, and opens
that execution's stream for a minute.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.core import signing
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts.models import User

VALID_FOR = timedelta(minutes=1)
_SALT = "executions.tickets"


def issue_ticket(*, user_id: UUID, execution_id: UUID, now: datetime) -> tuple[str, datetime]:
    """A ticket, and the moment from which on it opens nothing."""
    return signing.dumps([str(user_id), str(execution_id)], salt=_SALT), now + VALID_FOR


class TicketAuthentication(BaseAuthentication):
    """Signs in as the ticket's user, for the execution of the path alone."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        ticket = request.query_params.get("ticket")
        if not ticket:
            return None
        try:
            user_id, execution_id = signing.loads(ticket, salt=_SALT, max_age=VALID_FOR)
        except signing.BadSignature as error:
            raise AuthenticationFailed("The ticket is not valid, or older than a minute: ask for a new one.") from error
        if execution_id != str(request.parser_context["kwargs"]["execution_id"]):
            raise AuthenticationFailed("The ticket is for another execution.")
        user = User.objects.filter(pk=user_id, is_active=True, deleted_at=None).first()
        if user is None:
            raise AuthenticationFailed("The account that this ticket was given to is closed.")
        return user, None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TicketScheme(OpenApiAuthenticationExtension):
    target_class = TicketAuthentication
    name = "ticket"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "A one-minute ticket for this stream.",
        }
