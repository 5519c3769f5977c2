"""`blox.branch`: choose where the payload goes."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from flows.blocks.base import JSON, Block, BlockConfig, BlockError, Context, Expression, Output


class Case(BlockConfig):
    when: Expression = Field(description="A CEL expression that is true or false, for example `payload.total > 100`.")
    to: str = Field(description="The peer that gets the payload when it is true.")


class BranchConfig(BlockConfig):
    cases: list[Case] = Field(min_length=1, max_length=100, description="Looked at in this order.")
    otherwise: str | None = Field(None, description="The peer that gets the payload when no case is true.")
    mode: Literal["first", "all"] = Field(
        "first", description="Whether the first true case decides, or every true one counts."
    )


class Branch(Block):
    name = "blox.branch"
    title = "Branch"
    description = (
        "Sends the payload on to the peers whose condition is true; to none when nothing is and there is no otherwise."
    )
    category = "flow"
    Config = BranchConfig
    waits = False
    expression_paths: ClassVar[frozenset[tuple[str, ...]]] = frozenset({("cases", "*", "when")})
    example: ClassVar[str] = """\
- name: is_large
  handler: blox.branch
  config:
    cases:
      - {when: "payload.total > 100", to: ask_manager}
      - {when: "payload.country != 'DE'", to: check_customs}
    otherwise: ship
  peers: [ask_manager, check_customs, ship]
"""

    def named_peers(self, config: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        cases = config.get("cases")
        found: list[tuple[tuple[str | int, ...], str]] = []
        for position, case in enumerate(cases if isinstance(cases, list) else []):
            if isinstance(case, Mapping) and isinstance(case.get("to"), str):
                found.append((("cases", position, "to"), case["to"]))
        if isinstance(config.get("otherwise"), str):
            found.append((("otherwise",), config["otherwise"]))
        return found

    async def run(self, ctx: Context, config: BranchConfig, payload: JSON) -> Output:
        chosen: list[str] = []
        for position, case in enumerate(config.cases):
            if _holds(case.when, position):
                chosen.append(case.to)
                if config.mode == "first":
                    break
        if not chosen and config.otherwise is not None:
            chosen.append(config.otherwise)
        return Output(payload, to=tuple(dict.fromkeys(chosen)))


def _holds(condition: Any, position: int) -> bool:
    if isinstance(condition, str):  # it came out of a placeholder, so it was never compiled
        message = f"cases[{position}].when must stand in the YAML itself; data is never evaluated."
        raise BlockError(message, code="condition_not_compiled", retryable=False)
    value = condition.evaluate()
    if not isinstance(value, bool):
        raise BlockError(
            f"cases[{position}].when gave {_kind(value)}, where true or false is needed."
            " Compare it with something, for example: payload.count > 0.",
            code="condition_not_boolean",
            retryable=False,
        )
    return value


def _kind(value: JSON) -> str:
    names = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
