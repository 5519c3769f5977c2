"""`blox.call_flow`: run another flow."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, Context, Effects


class CallFlowConfig(BlockConfig):
    flow: str = Field(
        min_length=1, max_length=100, description="The id or the name of a flow of the same owner; it must be running."
    )
    wait: bool = Field(
        True,
        description="Whether to wait for its end and give its output. What is waited for is canceled when its caller ends.",
    )


class CallFlow(Block):
    name = "blox.call_flow"
    title = "Call flow"
    description = "Runs another flow with the payload as its input, and waits for its output unless told not to."
    category = "flow"
    Config = CallFlowConfig
    example: ClassVar[str] = """\
- name: bill
  handler: blox.call_flow
  config: {flow: write-invoice, wait: true}
  peers: [send_invoice]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.OURS

    async def run(self, ctx: Context, config: CallFlowConfig, payload: JSON) -> JSON:
        # By attempt: a listener with a `retry` wants the flow called again, not the same failure once more.
        execution_id = await ctx.start_flow(config.flow, payload, position=f"start {ctx.attempt}")
        if not config.wait:
            return {"executionId": str(execution_id)}
        return await ctx.wait_for_execution(execution_id)
