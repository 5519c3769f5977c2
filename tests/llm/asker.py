"""A worker process for tests of what processes share: asks as it is told, one line of JSON in, one out.

python -m tests.llm.asker REDIS_URL ENDPOINT...     an endpoint: {"id": ..., "base_url": ...}, tried in this order
{"now": 1800000000} -> [["a", "unavailable"], ["b", "answered"]], the providers asked; or {"error": "..."}
"""

import asyncio
import json
import os
import sys
from uuid import uuid4

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402

from bloxserver.core.loops import background_done  # noqa: E402
from llm.ask import ask  # noqa: E402
from llm.errors import ModelError  # noqa: E402
from llm.exchange import Allowance, Caller, Endpoint  # noqa: E402
from llm.path.shared import Shared  # noqa: E402
from tests.llm.stores import question  # noqa: E402


async def serve(redis_url: str, endpoints: list[Endpoint]) -> None:
    now = 0.0
    shared = Shared(redis_url, clock=lambda: now)
    while line := await asyncio.to_thread(sys.stdin.readline):
        now = json.loads(line)["now"]
        caller = Caller(uuid4(), "enterprise", Allowance("enterprise tier", 300, 500_000, 50))
        said: object
        try:
            answer = await ask(question(), caller=caller, endpoints=[endpoints], timeout=30, shared=shared)
            said = [[hop.provider, hop.outcome] for hop in answer.path]
        except ModelError as error:
            said = {"error": error.message}
        await background_done()  # what the breaker is told is told behind the answer
        print(json.dumps(said), flush=True)
    await shared.close()


def main() -> None:
    redis_url, *described = sys.argv[1:]
    endpoints = [Endpoint(**json.loads(text)) for text in described]
    settings.BLOX_HTTP_ALLOW = ["127.0.0.1"]
    asyncio.run(serve(redis_url, endpoints))


if __name__ == "__main__":
    main()
