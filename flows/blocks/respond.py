"""`blox.respond`: shape the answer of a webhook that waits."""

import re
from typing import ClassVar

from pydantic import Field, field_validator

from flows.blocks.base import JSON, Block, BlockConfig, Context

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# They frame the message, speak for the server, or set state on its origin, where other tenants' webhooks live too.
_SERVERS_OWN = frozenset(
    {
        "access-control-allow-credentials",
        "access-control-allow-origin",
        "connection",
        "content-encoding",
        "content-length",
        "content-security-policy",
        "date",
        "idempotent-replayed",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "server",
        "service-worker-allowed",
        "clear-site-data",
        "set-cookie",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-content-type-options",
    }
)


class RespondConfig(BlockConfig):
    status: int = Field(200, ge=200, le=599, description="The HTTP status.")
    headers: dict[str, str | int | float] = Field({}, max_length=50, description="Response headers.")
    body: JSON = Field(None, description="The body: a text as it is, anything else as JSON; the payload when left out.")

    @field_validator("headers")
    @classmethod
    def _safe(cls, headers: dict[str, str | int | float]) -> dict[str, str | int | float]:
        for name, value in headers.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not a header name")
            if name.lower() in _SERVERS_OWN:
                raise ValueError(f"{name} is the server's own to set; leave it out")
            if not _VALUE.fullmatch(str(value)):
                raise ValueError(f"the value of {name} holds a line break or a character outside Latin-1")
        return headers


class Respond(Block):
    name = "blox.respond"
    title = "Respond"
    description = (
        "Sets what a webhook that waits for the result (`config.respond: result`) is answered, and passes the payload"
        " on. The last one that runs counts."
    )
    category = "output"
    Config = RespondConfig
    example: ClassVar[str] = """\
- name: answer
  handler: blox.respond
  config:
    status: 201
    headers: {Location: "https://shop.example/orders/{{ payload.id }}"}
    body: {id: "{{ payload.id }}"}
  peers: [done]
"""

    async def run(self, ctx: Context, config: RespondConfig, payload: JSON) -> JSON:
        body = config.body if "body" in config.model_fields_set else payload
        await ctx.respond(config.status, {name: str(value) for name, value in config.headers.items()}, body)
        return payload
