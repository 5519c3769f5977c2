"""`blox.fail`: end with an error."""

import json
from typing import ClassVar

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context


class FailConfig(BlockConfig):
    message: JSON = Field(description="What went wrong; anything but a text is shown as JSON.")


class Fail(Block):
    name = "blox.fail"
    title = "Fail"
    description = "Fails: the message goes to `on_error`, or ends the execution as an error."
    category = "flow"
    Config = FailConfig
    waits = False
    example: ClassVar[str] = """\
- name: no_stock
  handler: blox.fail
  config:
    message: "{{ payload.article }} is out of stock"
"""

    async def run(self, ctx: Context, config: FailConfig, payload: JSON) -> JSON:
        message = config.message if isinstance(config.message, str) else json.dumps(config.message)
        raise BlockError(message, code="failed_by_flow", retryable=False)
