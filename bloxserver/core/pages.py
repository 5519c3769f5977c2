"""Middleware that pages and the API need and webhooks do not: calls of webhooks pass by it.

A server gets a thousand of those a second; sessions, messages and static files would cost each more than its own work.
"""

from typing import Any

from csp.middleware import CSPMiddleware as CSP
from django.contrib.auth.middleware import AuthenticationMiddleware as Authentication
from django.contrib.messages.middleware import MessageMiddleware as Message
from django.contrib.sessions.middleware import SessionMiddleware as Session
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware as WhiteNoise

WEBHOOKS = "/webhooks/"


class _Skipped:
    get_response: Any

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(WEBHOOKS):
            return self.get_response(request)
        return super().__call__(request)  # type: ignore[misc]


class WhiteNoiseMiddleware(_Skipped, WhiteNoise): ...


class CSPMiddleware(_Skipped, CSP): ...


class SessionMiddleware(_Skipped, Session): ...


class AuthenticationMiddleware(_Skipped, Authentication): ...


class MessageMiddleware(_Skipped, Message): ...
