"""A block of another package that does to its worker what no block should."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

from flows.blocks.base import JSON, Block, BlockConfig, Context, Effects

CHUNK = 16 * 1024 * 1024


class BadConfig(BlockConfig):
    do: str
    marks: str  # a folder; in it a file for each execution, with a line (the time) for each run of the block


class Bad(Block):
    name = "acme.bad"
    title = "Bad"
    description = "Kills, bloats or hangs its worker."
    category = "data"
    Config = BadConfig
    example: ClassVar[str] = "- {name: bad, handler: acme.bad, config: {do: die, marks: /tmp}}\n"

    def effects(self, config: object) -> Effects:
        return Effects.NONE

    async def run(self, ctx: Context, config: BadConfig, payload: JSON) -> JSON:
        with open(Path(config.marks) / str(ctx.execution_id), "a") as file:
            file.write(f"{time.time()}\n")
        return await getattr(self, f"_{config.do}")(config)

    async def _die(self, config: BadConfig) -> JSON:
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    async def _bloat(self, config: BadConfig) -> JSON:
        """Takes memory without end, and does not let the loop go: whoever looks on kills the process."""
        held = []
        while True:
            held.append(b"x" * CHUNK)
            time.sleep(0.01)

    async def _never_end(self, config: BadConfig) -> JSON:
        """Deaf to cancellation, while the loop and the lease keeper live."""
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    async def _hang_once(self, config: BadConfig) -> JSON:
        """Blocks the loop, the first time."""
        once = Path(config.marks) / "hung"
        if not once.exists():
            once.touch()
            time.sleep(3600)
        return "in the end"
