"""`blox.key_value`: what a flow keeps between its executions."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Effects


class KeyValueConfig(BlockConfig):
    op: Literal["get", "set", "delete", "increment", "list"] = Field(description="What to do.")
    key: str = Field(
        "", max_length=255, description="The key; for `list` the start of the keys, all of them when left out."
    )
    value: JSON = Field(None, description="For `set` the value, for `increment` what to add (default 1).")
    ttl: float | None = Field(
        None,
        gt=0,
        description="Seconds after which the key is forgotten; never when left out. For `increment` it runs from the first one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _what_the_op_needs(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        op = data.get("op")
        if op in ("get", "set", "delete", "increment") and "key" not in data:
            raise ValueError(f"op {op} needs a key")
        if op == "set" and "value" not in data:
            raise ValueError("op set needs a value")
        if op in ("get", "delete", "list") and ("value" in data or "ttl" in data):
            raise ValueError(f"op {op} takes neither value nor ttl")
        return data


class KeyValueBlock(Block):
    name = "blox.key_value"
    title = "Key-value store"
    description = (
        "Keeps values for the flow between its executions. Gives the value: for `get` and `delete` the stored one or null, for"
        " `increment` the new number, for `list` a list of {key, value}."
    )
    category = "state"
    Config = KeyValueConfig
    example: ClassVar[str] = """\
- name: count_visit
  handler: blox.key_value
  config:
    op: increment
    key: "visits/{{ payload.customer }}"
    ttl: 86400
  peers: [is_too_many]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.OURS

    async def run(self, ctx: Context, config: KeyValueConfig, payload: JSON) -> JSON:
        return await ctx.transact(_operation(ctx, config))


def _operation(ctx: Context, config: KeyValueConfig) -> Callable[[], JSON]:
    def run() -> JSON:
        # Imported here: an organism is read without Django's models, and this runs only where the database is.
        from django.utils import timezone

        from bloxserver.core.errors import DomainError
        from flows import key_values

        now, flow_id, key = timezone.now(), ctx.flow_id, config.key
        try:
            match config.op:
                case "get":
                    return key_values.kv_get(flow_id=flow_id, key=key, now=now)
                case "set":
                    return key_values.kv_set(flow_id=flow_id, key=key, value=config.value, ttl=config.ttl, now=now)
                case "delete":
                    return key_values.kv_delete(flow_id=flow_id, key=key, now=now)
                case "increment":
                    by = config.value if "value" in config.model_fields_set else 1
                    return key_values.kv_increment(flow_id=flow_id, key=key, by=by, ttl=config.ttl, now=now)
                case "list":
                    return key_values.kv_list(flow_id=flow_id, prefix=key, now=now)
        except DomainError as error:
            raise BlockError(error.message, code=error.code, retryable=False) from None

    return run
