"""What stands between a tenant's request and the network: an httpx2 transport that connects only to checked addresses.

A name is resolved once, every answer is checked, and the connection goes to a checked address (Host header and TLS
name stay the URL's), so that neither a second DNS answer nor a redirect leads elsewhere.
"""

import asyncio
import functools
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore2
import httpx2
from django.conf import settings

from bloxserver.core.addresses import AllowList, IPAddress, canonical, literal_address, parse_allow_list

CONNECT_TIMEOUT = 5.0  # seconds, for all addresses of a name together
DNS_THREADS = 16

Resolver = Callable[[str, int], Awaitable[list[str]]]

_HOST = re.compile(rb"[0-9A-Za-z_.-]+|[0-9A-Fa-f:.]+(%[0-9A-Za-z]+)?")  # a name (IDNA is ASCII by now) or IPv6


class SafeHttpError(Exception):
    """A request that gave no answer. The message is fit for the flow's author."""


class InvalidRequest(SafeHttpError):
    """The URL or a header can't be sent as it is."""


class BlockedAddress(SafeHttpError):
    """The address is not one that a flow may reach. Nothing was sent to it."""


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """One for the process: reading the certificate store takes tens of milliseconds. `SSL_CERT_FILE` is the operator's."""
    return httpcore2.default_ssl_context()


def allow_list() -> AllowList:
    """The operator's `BLOX_HTTP_ALLOW`. Raises `ImproperlyConfigured`."""
    return parse_allow_list(tuple(settings.BLOX_HTTP_ALLOW))


class SystemResolver:
    """The system's resolver, in threads of its own: slow names must not take the threads that everything else shares."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, best first. Raises `OSError`, or `UnicodeError` for a name that DNS can't hold."""
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return list(dict.fromkeys(str(answer[4][0]) for answer in answers))

    def close(self) -> None:
        """Let the threads end with what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects only to addresses that were checked. Every connection of the pool is made here."""

    def __init__(self, *, resolver: Resolver, allow: AllowList | None = None) -> None:
        self._resolver = resolver
        self._allow = allow
        self._connect = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises `BlockedAddress`, `httpcore2.ConnectError`, `httpcore2.ConnectTimeout`."""
        deadline = time.monotonic() + (CONNECT_TIMEOUT if timeout is None else timeout)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                addresses = await self.checked_addresses(host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"the name {host} was not resolved in time") from None
        failure: Exception = httpcore2.ConnectError(f"the name {host} has no address")
        for position, address in enumerate(addresses):
            # An equal share of what is left, so that one dead address leaves time for the next.
            share = max(deadline - time.monotonic(), 0.0) / (len(addresses) - position)
            try:
                return await self._connect.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def checked_addresses(self, host: str, port: int) -> list[IPAddress]:
        """Where `host` may be reached; one forbidden answer forbids the name. Raises `BlockedAddress`."""
        allow = self._allow if self._allow is not None else allow_list()
        try:
            literal = literal_address(host)
        except ValueError as error:
            raise BlockedAddress(f"{error}.") from None
        addresses = [literal] if literal else await self._resolve(host, port)
        if not allow.allows_host(host, port):
            for address in addresses:
                if not allow.allows_address(address, port):
                    raise _blocked(host, port)
        return [canonical(address) for address in addresses]

    async def _resolve(self, host: str, port: int) -> list[IPAddress]:
        try:
            return [ip_address(answer) for answer in await self._resolver(host, port)]
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError(f"the name {host} could not be resolved") from None


def _blocked(host: str, port: int) -> BlockedAddress:
    # It does not say which address the name has: that is the operator's network, and no tenant's business.
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return BlockedAddress(
        f"Requests to {place} are blocked: flows may reach public addresses on ports 80 and 443 only."
        f" An operator can allow it with BLOX_HTTP_ALLOW={place}."
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """The guard as an httpx2 transport, for SDKs that take an `httpx2.AsyncClient`; give that `trust_env=False`."""

    def __init__(self, *, resolver: Resolver | None = None, allow: AllowList | None = None) -> None:
        # Without super().__init__(), which would make an unguarded pool: httpx2 has no argument for a network backend.
        self._system_resolver = None
        if resolver is None:
            resolver = self._system_resolver = SystemResolver()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context(),
            max_connections=None,  # the worker's concurrency bounds it; a shared bound would let tenants block each other
            max_keepalive_connections=100,
            keepalive_expiry=5.0,  # seconds; the longer, the more often a server closes just as the next POST goes out
            network_backend=GuardedBackend(resolver=resolver, allow=allow),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises `InvalidRequest` and `BlockedAddress` beside httpx2's own errors."""
        check_url(request.url)
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        await super().aclose()
        if self._system_resolver is not None:
            self._system_resolver.close()


def check_url(url: httpx2.URL) -> None:
    """Raises `InvalidRequest` unless it is an absolute http or https URL without a user name."""
    if url.scheme not in ("http", "https"):
        raise InvalidRequest(f"The URL must start with http:// or https://, not {url.scheme or 'nothing'!r}.")
    if not _HOST.fullmatch(url.raw_host):
        raise InvalidRequest("The URL names no valid host.")
    if url.userinfo:
        raise InvalidRequest("The URL holds a user name or password; send credentials as a header instead.")
