"""`blox.merge`: wait for branches and join what they bring."""

from typing import ClassVar, Literal

from pydantic import Field

from flows.blocks.base import JSON, Arrival, Block, BlockConfig, Context


class MergeConfig(BlockConfig):
    as_: Literal["list", "object"] = Field(
        "list",
        alias="as",
        description="`list`: what arrived, in order of arrival. `object`: by sender; a list where one sender sent several.",
    )


class Merge(Block):
    name = "blox.merge"
    title = "Merge"
    description = "Waits until nothing that is still under way can reach it, then goes on once with all that arrived."
    category = "flow"
    Config = MergeConfig
    waits = False
    example: ClassVar[str] = """\
- name: both
  handler: blox.merge
  config: {as: object}
  peers: [write_report]
"""

    def is_merge(self) -> bool:
        return True

    async def run(self, ctx: Context, config: MergeConfig, payload: JSON) -> JSON:
        arrivals: list[Arrival] = payload
        if config.as_ == "list":
            return [arrival.payload for arrival in arrivals]
        by_sender: dict[str, list[JSON]] = {}
        for arrival in arrivals:
            by_sender.setdefault(arrival.sender, []).append(arrival.payload)
        return {sender: sent[0] if len(sent) == 1 else sent for sender, sent in by_sender.items()}
