"""A block of another package that does, by its config, what no block should."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from bloxserver.core.loops import in_background
from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Effects, Output


class OddConfig(BlockConfig):
    do: str
    effects: str = "none"
    seconds: float = 0.0
    peer: str = ""


class Odd(Block):
    name = "acme.odd"
    title = "Odd"
    description = "Misbehaves."
    category = "data"
    Config = OddConfig
    example: ClassVar[str] = "- {name: odd, handler: acme.odd, config: {do: nothing}}\n"
    runs: ClassVar[list[tuple[str, int]]] = []  # (what was done, attempt)

    def effects(self, config: Mapping[str, Any]) -> Effects:
        return Effects(config.get("effects", "none"))

    def called_peers(self, config: Mapping[str, Any]) -> list[str]:
        return [config["peer"]] if "peer" in config else []

    async def run(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON | Output:
        self.runs.append((config.do, ctx.attempt))
        return await getattr(self, f"_{config.do}")(ctx, config, payload)

    async def _nan(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        return float("nan")

    async def _a_set(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        return {1, 2}

    async def _a_circle(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        circle: list[Any] = []
        circle.append(circle)
        return circle

    async def _great_depth(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        return deep

    async def _tuples(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        return {"pair": (1, 2), 3: "three"}

    async def _number_as_peer(self, ctx: Context, config: OddConfig, payload: JSON) -> Output:
        return Output(1, to=(3,))  # type: ignore[arg-type]

    async def _change_payload(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        payload["changed"] = True
        return payload

    async def _long_code(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        raise BlockError("nul \x00 and surrogate \ud800", code="c\x00" * 100)

    async def _text_missing(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        raise BlockError(None, code=None)  # type: ignore[arg-type]

    async def _give_back_later(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        async def give_back() -> None:
            await asyncio.sleep(0.05)
            self.runs.append(("given back", ctx.attempt))

        in_background(give_back())
        return payload

    async def _cancel_itself(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        raise asyncio.CancelledError

    async def _exit(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        raise SystemExit(3)

    async def _stop_iteration_in_transaction(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        return await ctx.transact(lambda: next(iter([])))

    async def _long_position(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        async def effect() -> JSON:
            return 1

        return await ctx.record(effect, position="p" * 200)

    async def _record_a_tuple(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        async def effect() -> JSON:
            return (1, 2)

        return isinstance(await ctx.record(effect), list)

    async def _ignore_cancellation(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        until = asyncio.get_running_loop().time() + config.seconds
        while asyncio.get_running_loop().time() < until:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return "done"

    async def _sleep(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        await asyncio.sleep(config.seconds)
        self.runs.append(("slept", ctx.attempt))
        return payload

    async def _wait(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        await ctx.sleep_until(datetime.now(UTC) + timedelta(seconds=config.seconds))
        self.runs.append(("waited", ctx.attempt))
        return payload

    async def _call(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        return await ctx.call(config.peer, payload)

    async def _count(self, ctx: Context, config: OddConfig, payload: JSON) -> JSON:
        """Two counts in two transactions, and a failure after them."""
        from django.utils import timezone

        from flows.key_values import kv_increment

        def increment() -> JSON:
            return kv_increment(flow_id=ctx.flow_id, key="count", by=1, ttl=None, now=timezone.now())

        await ctx.transact(increment)
        await ctx.transact(increment)
        raise BlockError("too bad")
