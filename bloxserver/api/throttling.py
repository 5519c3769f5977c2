"""API requests a minute, counted in Redis where there is one, else in this process.

A sliding window of two counters a key (`limits`): exact enough, two small Redis keys whatever the rate. When Redis is
away the count goes on in memory: a limit that cannot be counted must not become an outage.
"""

import ipaddress
import logging
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

logger = logging.getLogger(__name__)

REDIS_TIMEOUT = 0.3  # seconds, to connect and to answer
MOST_AHEAD = 10_000  # keys
BREAK_SECONDS = 10.0  # how long Redis is left alone after it failed


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Where one key stands: what `X-RateLimit-*` tells."""

    limit: int
    remaining: int
    reset_at: float  # epoch seconds at which more requests become available
    allowed: bool

    @property
    def headers(self) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(ceil(self.reset_at)),
        }

    @property
    def retry_after(self) -> int:
        """Whole seconds until another try makes sense, at least one."""
        return max(1, ceil(self.reset_at - time.time()))


class _Ahead:
    """What has been counted of one key before it came."""

    def __init__(self, counted: RateLimit, count: int) -> None:
        self.counted, self.left = counted, count
        self._until = time.monotonic() + 60
        self._lock = threading.Lock()

    def take(self, cost: int, per_minute: int) -> RateLimit | None:
        """Where the key stands with `cost` more; None where there is not that much, or it is of another rate or old."""
        with self._lock:
            if self.left < cost or self.counted.limit != per_minute or time.monotonic() > self._until:
                return None
            self.left -= cost
            return RateLimit(per_minute, self.counted.remaining + self.left, self.counted.reset_at, True)


class Limiter:
    """Counts hits; falls back to memory for `BREAK_SECONDS` when Redis fails, then lets one request try it again."""

    def __init__(self, redis_url: str) -> None:
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._broken_until = 0.0
        self._probe = threading.Lock()
        self._ahead: dict[str, _Ahead] = {}
        if redis_url:
            storage = RedisStorage(
                redis_url,
                key_prefix="blox:limits",
                socket_timeout=REDIS_TIMEOUT,
                socket_connect_timeout=REDIS_TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # limits types its options too narrowly
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)

    def hit(self, key: str, *, per_minute: int, cost: int = 1) -> RateLimit:
        """Counts one request (or `cost` of what is counted) against `key` and tells where it stands.

        High rates are counted ahead, a hundredth at a time, so that most requests cost no round trip; of what one
        process has counted and not seen come, it lets come what does within a minute. Never raises for Redis.
        """
        ahead = self._ahead.get(key)
        if ahead is not None and (limit := ahead.take(cost, per_minute)) is not None:
            return limit
        wanted = max(cost, per_minute // 100)
        limit = self._count(key, per_minute, wanted)
        if wanted > cost:
            if not limit.allowed:
                return self._count(key, per_minute, cost)
            if len(self._ahead) >= MOST_AHEAD:
                self._ahead.clear()
            self._ahead[key] = ahead = _Ahead(limit, wanted)
            return ahead.take(cost, per_minute) or limit
        return limit

    def _count(self, key: str, per_minute: int, cost: int) -> RateLimit:
        if self._shared is not None and self._may_try_shared():
            try:
                limit = _hit(self._shared, key, per_minute, cost)
                self._broken_until = 0.0
                return limit
            except (RedisError, OSError) as error:
                logger.warning("Rate limits are counted in memory for %s s: Redis failed (%s).", BREAK_SECONDS, error)
                self._broken_until = time.monotonic() + BREAK_SECONDS
        return _hit(self._local, key, per_minute, cost)

    def reset(self) -> None:
        """Forgets every count, for tests."""
        self._ahead.clear()
        self._local.storage.reset()
        if self._shared is not None:
            self._shared.storage.reset()

    def _may_try_shared(self) -> bool:
        if not self._broken_until:
            return True
        with self._probe:  # one request finds out whether Redis is back; the others go on in memory
            if time.monotonic() < self._broken_until:
                return False
            self._broken_until = time.monotonic() + BREAK_SECONDS
            return True


def _hit(limiter: SlidingWindowCounterRateLimiter, key: str, per_minute: int, cost: int) -> RateLimit:
    item = RateLimitItemPerMinute(per_minute)
    allowed = limiter.hit(item, key, cost=cost)
    stats = limiter.get_window_stats(item, key)
    return RateLimit(per_minute, stats.remaining if allowed else 0, stats.reset_time, allowed)


@lru_cache(maxsize=1)
def _limiter(redis_url: str) -> Limiter:
    return Limiter(redis_url)


def limiter() -> Limiter:
    """The process's limiter. Callers prefix their keys (`webhook/<user id>`)."""
    return _limiter(settings.REDIS_URL)


def client_address(request: Any) -> str | None:
    """The peer's IP address; of `X-Forwarded-For` only what our own proxies (`NUM_PROXIES`) added is believed."""
    try:
        return str(ipaddress.ip_address(str(BaseThrottle().get_ident(request)).strip()))
    except ValueError:
        return None


class TierThrottle(BaseThrottle):
    """A user by the rate that `BLOX_API_RATE` names, everyone else by address and `BLOX_ANONYMOUS_API_RATE`."""

    def allow_request(self, request: Request, view: Any) -> bool:
        http_request: Any = request._request
        # The middleware writes the headers, also of an error.
        self.rate_limit = charge_user(http_request, request.user) if request.user else charge_address(http_request)
        return self.rate_limit.allowed

    def wait(self) -> float:
        return self.rate_limit.retry_after


def charge_user(http_request: Any, user: Any) -> RateLimit:
    """Counts one API request of `user`, once for each `http_request`."""
    if getattr(http_request, "rate_limit", None) is None:
        per_minute = import_string(settings.BLOX_API_RATE)(user)
        http_request.rate_limit = limiter().hit(f"api/user/{user.pk}", per_minute=per_minute)
    rate_limit: RateLimit = http_request.rate_limit
    return rate_limit


def charge_address(http_request: Any) -> RateLimit:
    """Counts one API request of an address that nobody is signed in to, once for each `http_request`."""
    if getattr(http_request, "rate_limit", None) is None:
        key = f"api/address/{_network(client_address(http_request))}"
        http_request.rate_limit = limiter().hit(key, per_minute=settings.BLOX_ANONYMOUS_API_RATE)
    rate_limit: RateLimit = http_request.rate_limit
    return rate_limit


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: a customer gets that many addresses, and may not multiply by them."""
    if address is None:
        return "unknown"
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
