"""`blox.log`: a line in the worker's log."""

import json
import re
from typing import ClassVar, Literal

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, Context

LONGEST_MESSAGE = 10_000  # characters
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LogConfig(BlockConfig):
    message: JSON = Field(description="What to write; anything but a text is written as JSON.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The line's level.")


class Log(Block):
    name = "blox.log"
    title = "Log"
    description = (
        "Writes a line to the worker's log, marked with the execution and the listener, and passes the payload on."
    )
    category = "output"
    Config = LogConfig
    waits = False
    example: ClassVar[str] = """\
- name: note
  handler: blox.log
  config:
    message: "Order {{ payload.id }} came from {{ trigger.name }}"
    level: info
  peers: [next_step]
"""

    async def run(self, ctx: Context, config: LogConfig, payload: JSON) -> JSON:
        message = config.message if isinstance(config.message, str) else json.dumps(config.message)
        ctx.log(config.level, one_line(message[:LONGEST_MESSAGE]))
        return payload


def one_line(text: str) -> str:
    """Control characters escaped, so that a message can't pass for several lines of the log."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
