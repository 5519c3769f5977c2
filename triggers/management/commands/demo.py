"""`manage.py demo`: an account, an access token and a running flow to try things out with."""

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import AccessToken, Tier, User
from accounts.services import authenticate_token, create_access_token
from executions.models import TriggerType
from flows.models import Flow, FlowStatus
from flows.services import create_flow, start_flow
from triggers.models import Trigger
from triggers.services import create_trigger

EMAIL = "demo@bloxserver.local"
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
FLOW_NAME = "Demo: order alert"
ORGANISM_YAML = """\
organism:
  name: order-alert
listeners:
  - name: read_order
    description: Takes what matters from the order
    handler: blox.transform
    config:
      value:
        customer: "{{ payload.customer }}"
        total: "{{ payload.total }}"
    peers: [is_large]
  - name: is_large
    handler: blox.branch
    config:
      cases: [{when: "payload.total > 100", to: call_them}]
      otherwise: thank_them
    peers: [call_them, thank_them]
  - name: call_them
    handler: blox.output
    config:
      value: {action: call, message: "Call {{ payload.customer }}: the order is over 100."}
  - name: thank_them
    handler: blox.output
    config:
      value: {action: mail, message: "Thank {{ payload.customer }} for the order."}
"""


class Command(BaseCommand):
    help = "Make a demo operator, an access token and a running demo flow, and print how to use them. Safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quiet", action="store_true", help="Print nothing.")

    def handle(self, *args: Any, quiet: bool, **options: Any) -> None:
        if urlsplit(settings.BLOX_PUBLIC_URL).hostname not in LOCAL_HOSTS:
            raise CommandError(
                f"The demo account is an operator: it is not for a server that others reach at {settings.BLOX_PUBLIC_URL}. "
                "`manage.py up` runs the server without it."
            )
        notes = _Notes(settings.VAR_DIR / "demo.json")
        token = _token(notes)
        webhook = _webhook(notes, token.user)
        notes.save()
        if not quiet:
            self.stdout.write(_instructions(notes, webhook))


class _Notes(dict[str, str]):
    """What cannot be read back from the database: `var/demo.json`, for its owner's eyes only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            super().__init__(json.loads(path.read_text()))
        except (OSError, ValueError):
            super().__init__()
        self.stored = dict(self)

    def save(self) -> None:
        if self == self.stored:
            return
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(self, file)


def _token(notes: _Notes) -> AccessToken:
    """The noted token with its user; both are made anew where they are gone."""
    token = authenticate_token(notes["token"]) if "token" in notes else None
    if token is not None and token.user.is_active and token.user.is_superuser:
        return token
    token, notes["token"] = create_access_token(user=_user(notes), name="demo", scopes=["read", "write"])
    return token


def _user(notes: _Notes) -> User:
    user = User.objects.filter(email__iexact=EMAIL).first() or User(email=EMAIL, name="Demo", tier=Tier.ENTERPRISE)
    user.is_active = user.is_staff = user.is_superuser = True
    if not user.has_usable_password() or not user.password or "password" not in notes:
        notes.setdefault("password", secrets.token_urlsafe(12))
        user.set_password(notes["password"])
    user.save()
    return user


def _webhook(notes: _Notes, user: User) -> Trigger:
    """The demo flow's webhook, of a flow that runs. What a person has changed on them stays."""
    webhooks = Trigger.objects.for_user(user).with_flow().filter(type=TriggerType.WEBHOOK, enabled=True)
    webhook = webhooks.filter(flow__name=FLOW_NAME).first()
    if webhook is None:
        flow = Flow.objects.for_user(user).filter(name=FLOW_NAME).first() or create_flow(
            owner=user, name=FLOW_NAME, description="Sorts orders by their total.", organism_yaml=ORGANISM_YAML
        )
        config = {"type": "webhook"}
        webhook = create_trigger(
            flow=flow, type=TriggerType.WEBHOOK, name="New order", config=config, now=timezone.now()
        )
    if webhook.flow.status != FlowStatus.RUNNING:
        webhook.flow = start_flow(flow=Flow.objects.get(pk=webhook.flow_id), by=user)
    return webhook


def _instructions(notes: _Notes, webhook: Trigger) -> str:
    """Lines to paste into a shell as they are: the latest execution's id is looked up by the line itself."""
    base = f"http://127.0.0.1:{settings.PORT}"
    executions = f"{base}/api/v1/flows/{webhook.flow_id}/executions"
    get = f"curl -s -H 'Authorization: Bearer {notes['token']}'"
    first_id = """python3 -c 'import json, sys; print(json.load(sys.stdin)["items"][0]["id"])'"""
    latest = f"$({get} '{executions}?pageSize=1' | {first_id})"
    order = json.dumps({"customer": "Ada", "total": 120})
    post = f"curl -s -H 'Content-Type: application/json' -d '{order}'"
    return f"""
Admin         {base}/admin/
  user        {EMAIL}
  password    {notes["password"]}
API           {base}/api/docs
  token       {notes["token"]}

Fire the demo flow:
  {post} '{base}/webhooks/{webhook.webhook_token}'

See its latest execution:
  {get} "{executions}/{latest}"

And the steps of that execution:
  {get} "{executions}/{latest}/steps"
"""
