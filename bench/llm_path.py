"""What the path of a request to a model costs: the same stub, asked by the bare SDK, over the wire alone, and the whole way.

The ways take turns, so that what else the machine does falls on all of them. With `--profile` it prints where the time of
the whole way goes.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import httpx2

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bloxserver.settings")
os.environ.setdefault("DEBUG", "1")
os.environ.setdefault("BLOX_ENV_FILE", os.devnull)

import django

django.setup()

from django.conf import settings  # noqa: E402
from openai import AsyncOpenAI  # noqa: E402

from llm import wire  # noqa: E402
from llm.ask import ask  # noqa: E402
from llm.exchange import Allowance, Caller, Endpoint, Request, UserMessage  # noqa: E402
from llm.path.shared import Shared  # noqa: E402

REDIS_URL = os.environ.get("BLOX_BENCH_REDIS_URL", "redis://127.0.0.1:6379/9")
QUESTION = "What is the answer to a question of an ordinary length, with some words in it?"
MODEL = "gpt-4o-mini"
CONCURRENCY = 50

Way = Callable[[int], Awaitable[object]]


def ways(url: str, client: AsyncOpenAI, stores: dict[str, Shared]) -> dict[str, Way]:
    """By name: how a request, which has a number, is made."""
    endpoint = Endpoint("1", "openai", "openai", MODEL, f"{url}/v1", "sk-bench", concurrency=CONCURRENCY)
    caller = Caller(uuid4(), "high_frequency", Allowance("high_frequency tier", 10_000, 10_000_000, 500))

    def request(number: int, temperature: float | None = None) -> Request:
        return Request(MODEL, (UserMessage(f"{QUESTION} {number}"),), max_tokens=10, temperature=temperature)

    async def sdk(number: int) -> object:
        return await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"{QUESTION} {number}"}],
            max_completion_tokens=10,
        )

    async def over_wire(number: int) -> object:
        return await wire.call(endpoint, request(number), timeout=30)

    def path(shared: Shared, temperature: float | None = None, *, only: int | None = None) -> Way:
        def way(number: int) -> Awaitable[object]:
            asked = request(number if only is None else only, temperature)
            return ask(asked, caller=caller, endpoints=[[endpoint]], timeout=30, shared=shared)

        return way

    found: dict[str, Way] = {"bare SDK": sdk, "wire": over_wire}
    for name, shared in stores.items():
        found[f"path, {name}, not cached"] = path(shared)
        found[f"path, {name}, to be cached"] = path(shared, 0)
        found[f"path, {name}, exact hit"] = path(shared, 0, only=0)
    return found


async def measure(url: str, rounds: int, profiled: str) -> dict[str, list[float]]:
    """Milliseconds of each call, by way."""
    stores = {"memory": Shared(""), "Redis": Shared(REDIS_URL)}
    async with httpx2.AsyncClient() as transport:
        client = AsyncOpenAI(api_key="sk-bench", base_url=f"{url}/v1", http_client=transport, max_retries=0)
        todo = ways(url, client, stores)
        taken: dict[str, list[float]] = {name: [] for name in todo}
        profile = cProfile.Profile()
        for number in range(-10, rounds):  # the first ten make connections
            for name, way in todo.items():
                if name == profiled and number >= 0:
                    profile.enable()
                started = time.perf_counter()
                await way(number)
                if number >= 0:
                    taken[name].append((time.perf_counter() - started) * 1000)
                profile.disable()
    for shared in stores.values():
        await shared.close()
    await wire.close_clients()
    if profiled:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--profile", default="", metavar="WAY", help='such as "path, Redis, exact hit"')
    options = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-m", "tests.llm.model_server"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        settings.BLOX_HTTP_ALLOW = [url.removeprefix("http://")]
        taken = asyncio.run(measure(url, options.rounds, options.profile))
    finally:
        server.terminate()
        server.wait()
    floor = statistics.median(taken["bare SDK"])
    print("| way | median, ms | p95, ms | more than the bare SDK, ms |\n|---|---|---|---|")
    for name, times in taken.items():
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"| {name} | {statistics.median(times):.2f} | {p95:.2f} | {statistics.median(times) - floor:+.2f} |")


if __name__ == "__main__":
    main()
