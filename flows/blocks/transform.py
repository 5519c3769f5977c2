"""`blox.transform`: make a value."""

from typing import ClassVar

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, Context


class TransformConfig(BlockConfig):
    value: JSON = Field(description="Any YAML; its placeholders are filled in.")


class Transform(Block):
    name = "blox.transform"
    title = "Transform"
    description = "Makes a new value out of the payload and what came before."
    category = "data"
    Config = TransformConfig
    waits = False
    example: ClassVar[str] = """\
- name: to_order
  handler: blox.transform
  config:
    value:
      id: "{{ payload.order_id }}"
      total: "{{ double(payload.net) * 1.19 }}"
  peers: [save_order]
"""

    async def run(self, ctx: Context, config: TransformConfig, payload: JSON) -> JSON:
        return config.value
