"""The catalogue: the blocks that come with the server, and those that other packages add.

A package adds one by an entry point of the group `bloxserver.blocks` whose value is a `Block` class. Its name needs a prefix
of its own, as in `acme.translate`; `blox.` is ours.
"""

import functools
import logging
import re
from importlib.metadata import EntryPoint, entry_points

from bloxserver.core.words import closest
from flows.blocks.agent import Agent
from flows.blocks.approval import Approval
from flows.blocks.base import Block, BlockConfig
from flows.blocks.branch import Branch
from flows.blocks.calculate import Calculate
from flows.blocks.call_flow import CallFlow
from flows.blocks.delay import Delay
from flows.blocks.email import Email
from flows.blocks.fail import Fail
from flows.blocks.for_each import ForEach
from flows.blocks.http import Http
from flows.blocks.key_value import KeyValueBlock
from flows.blocks.llm import Llm
from flows.blocks.log import Log
from flows.blocks.merge import Merge
from flows.blocks.output import OutputBlock
from flows.blocks.respond import Respond
from flows.blocks.transform import Transform

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "bloxserver.blocks"
BUILT_IN: tuple[type[Block], ...] = (
    Transform,
    Branch,
    Http,
    ForEach,
    Merge,
    Delay,
    Approval,
    CallFlow,
    KeyValueBlock,
    Calculate,
    Llm,
    Agent,
    Email,
    Respond,
    Log,
    Fail,
    OutputBlock,
)
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


@functools.cache
def catalogue() -> dict[str, Block]:
    """Every block by name, the built-in ones first. Read once a process: a new package needs a restart."""
    blocks: dict[str, Block] = {block.name: block() for block in BUILT_IN}
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda found: (found.value, found.name)):
        try:
            block = _load(entry_point)
            if block.name in blocks:
                raise ValueError(f"there is a block {block.name} already")
        except Exception:  # another package's code: whatever it raises, the other blocks must work
            logger.exception("The block %s (%s) is left out.", entry_point.name, entry_point.value)
        else:
            blocks[block.name] = block
    return blocks


def get_block(handler: str) -> Block | None:
    """The block that `handler` names."""
    return catalogue().get(handler)


def nearest(handler: str) -> str | None:
    """The block whose name is most like `handler`, with or without its prefix; None when none is like it."""
    names = {known: known for known in catalogue()}
    names |= {known.rpartition(".")[2]: known for known in reversed(catalogue())}
    for wanted in (handler.lower(), handler.lower().rpartition(".")[2]):
        if close := closest(wanted, names):
            return names[close]
    return None


def _load(entry_point: EntryPoint) -> Block:
    """Raises whatever the package raises, and `TypeError` or `ValueError` when it gives no block that can be shown."""
    found = entry_point.load()
    if not (isinstance(found, type) and issubclass(found, Block)):
        raise TypeError("it is not a subclass of flows.blocks.base.Block")
    block = found()
    if not _NAME.fullmatch(block.name) or block.name.startswith("blox."):
        raise ValueError(f"its name {block.name!r} needs a prefix of its own, as in acme.translate")
    if not issubclass(block.Config, BlockConfig):
        raise TypeError("its Config is not a subclass of flows.blocks.base.BlockConfig")
    block.Config.model_json_schema()
    for attribute in ("title", "description", "category", "example"):
        if not isinstance(getattr(block, attribute, None), str):
            raise TypeError(f"it has no {attribute}")
    return block
