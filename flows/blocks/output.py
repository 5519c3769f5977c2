"""`blox.output`: a result of the execution."""

from typing import ClassVar

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, Context


class OutputConfig(BlockConfig):
    value: JSON = Field(None, description="The result; the payload when left out.")


class OutputBlock(Block):
    name = "blox.output"
    title = "Output"
    description = "Gives a result of the execution. Several results are an object by listener."
    category = "output"
    Config = OutputConfig
    waits = False
    example: ClassVar[str] = """\
- name: done
  handler: blox.output
  config:
    value: {total: "{{ payload.total }}"}
"""

    async def run(self, ctx: Context, config: OutputConfig, payload: JSON) -> JSON:
        return config.value if "value" in config.model_fields_set else payload
