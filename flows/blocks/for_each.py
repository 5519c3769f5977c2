"""`blox.for_each`: run a peer once for each item of a list."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Output
from flows.blocks.parallel import in_parallel


class ForEachConfig(BlockConfig):
    items: JSON = Field(description="The list, as a rule one placeholder: `{{ payload.lines }}`.")
    each: str = Field(description="The peer that is run with each item as its payload; what it leads to runs with it.")
    max_parallel: int = Field(10, ge=1, le=100, description="How many items are under way at once.")
    on_item_error: Literal["fail", "skip"] = Field(
        "fail", description="`fail`: a failed item fails the step. `skip`: its result is null and the rest goes on."
    )


class ForEach(Block):
    name = "blox.for_each"
    title = "For each"
    description = (
        "Runs a peer for each item of a list, several at a time, and gives its other peers the results in item order."
    )
    category = "flow"
    Config = ForEachConfig
    example: ClassVar[str] = """\
- name: each_line
  handler: blox.for_each
  config:
    items: "{{ payload.lines }}"
    each: price_line
    max_parallel: 5
    on_item_error: skip
  peers: [price_line, add_up]
"""

    def named_peers(self, config: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        return [(("each",), each) for each in self.called_peers(config)]

    def called_peers(self, config: Mapping[str, Any]) -> list[str]:
        return [config["each"]] if isinstance(config.get("each"), str) else []

    async def run(self, ctx: Context, config: ForEachConfig, payload: JSON) -> Output:
        items = config.items
        if not isinstance(items, list):
            raise BlockError(
                f"items must be a list, but is {_shown(items)}. Name the list with a placeholder, such as"
                ' "{{ payload.lines }}".',
                code="not_a_list",
                retryable=False,
            )
        results: list[JSON] = [None] * len(items)
        failures: dict[int, BlockError] = {}

        async def run_item(index: int) -> bool:
            try:
                results[index] = await ctx.call(config.each, items[index], position=str(index))
            except BlockError as error:
                failures[index] = error
            return config.on_item_error == "skip" or not failures

        await in_parallel(run_item, len(items), config.max_parallel)
        if failures and config.on_item_error == "fail":
            index = min(failures)
            raise _of_item(failures[index], index)
        return Output(results, to=tuple(peer for peer in ctx.peers if peer != config.each))


def _of_item(error: BlockError, index: int) -> BlockError:
    return BlockError(
        f"Item {index}: {error.message}",
        code=error.code,
        retryable=error.retryable,
        repeat_is_safe=error.repeat_is_safe,
        retry_after=error.retry_after,
    )


def _shown(value: JSON) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"
