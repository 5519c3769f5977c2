"""`blox.approval`: wait for a person's yes or no."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, Context, Effects, Output
from flows.blocks.delay import LONGEST
from flows.blocks.email import recipients

WEEK = timedelta(days=7)


class ApprovalConfig(BlockConfig):
    message: str = Field(min_length=1, max_length=10_000, description="What is asked, as the person reads it.")
    timeout: float = Field(
        WEEK.total_seconds(),
        gt=0,
        le=LONGEST.total_seconds(),
        description="Seconds until no answer counts as a rejection by `timeout`: a week by default, 366 days at most.",
    )
    approved: str | None = Field(None, description="The peer that gets the output of a yes.")
    rejected: str | None = Field(None, description="The peer that gets the output of a no.")
    notify: str | Annotated[list[str], Field(max_length=50)] | None = Field(
        None, description="E-mail addresses: each gets a link to a page with the two answers, and answers by its own."
    )


class Approval(Block):
    name = "blox.approval"
    title = "Approval"
    description = (
        "Waits until a person approves or rejects, and gives {approved, by, comment, payload}. Answered by API, by mail "
        "(`notify`) or in the admin; holds no worker meanwhile. Once `approved` or `rejected` names a peer, the answer "
        "without one goes nowhere; without both, the output goes to every peer."
    )
    category = "flow"
    Config = ApprovalConfig
    default_attempts: ClassVar[int] = 3  # of sending the mails
    example: ClassVar[str] = """\
- name: ask_manager
  handler: blox.approval
  config:
    message: "Ship order {{ payload.id }} for {{ payload.total }} EUR?"
    timeout: 86400
    approved: ship
    rejected: tell_sales
    notify: [manager@shop.example]
  peers: [ship, tell_sales]
"""

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects.OURS

    def named_peers(self, config: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        return [((key,), config[key]) for key in ("approved", "rejected") if isinstance(config.get(key), str)]

    async def run(self, ctx: Context, config: ApprovalConfig, payload: JSON) -> Output:
        notify = recipients(config.notify) if config.notify else []
        until = datetime.now(UTC) + timedelta(seconds=config.timeout)
        answer = await ctx.ask(config.message, until=until, notify=notify)
        output = {**asdict(answer), "payload": payload}
        if config.approved is None and config.rejected is None:
            return Output(output)
        chosen = config.approved if answer.approved else config.rejected
        return Output(output, to=(chosen,) if chosen is not None else ())
